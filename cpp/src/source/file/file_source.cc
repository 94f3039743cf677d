#include "source/file/file_source.h"

#include "base/default_sizes.h"
#include "base/memory_units.h"
#include "base/settings.h"
#include "source/file/file_reader.h"

namespace streamer {
namespace {

class FileSource final : public Source {
 public:
  FileSource(const SourceContext& context, bool guards_views)
      : preference_(context.options.fs_strategy),
        budget_(context.budget),
        systems_(std::make_shared<FileSystems>(context.options.concurrency_for(SourceKind::kFile),
                                               guards_views)) {
    traits_.chunk_bytes = kFileChunk;
    traits_.view_chunk_bytes = 4 * kMiB;
    // Little: reused memory is in the cache of the processor; fresh memory costs more than reading.
    traits_.window_bytes = kFileWindow;
    traits_.initial_concurrency = systems_->local_reads();
    traits_.max_concurrency = systems_->local_reads();
    traits_.reads = systems_->reads();
    traits_.skips_gaps = true;
  }
  const SourceTraits& traits() const override { return traits_; }
  Result<std::unique_ptr<Reader>> make_reader() override {
    return std::unique_ptr<Reader>(std::make_unique<FileReader>(preference_, systems_, budget_));
  }

  void describe(std::map<std::string, std::string>* notes) const override {
    systems_->describe(notes);
  }

 private:
  SourceTraits traits_;
  const FsPreference preference_;
  MemoryBudget* const budget_;
  const std::shared_ptr<FileSystems> systems_;
};

}  // namespace

Result<std::unique_ptr<Source>> make_file_source(const SourceContext& context) {
  const Settings settings(context.options.source);
  const auto guards_views = settings.enabled("RUNAI_STREAMER_HANDLE_SIGBUS");
  if (!guards_views.ok()) return guards_views.status();
  return std::unique_ptr<Source>(std::make_unique<FileSource>(context, *guards_views));
}

}  // namespace streamer
