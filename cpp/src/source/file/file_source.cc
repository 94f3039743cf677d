#include "source/file/file_source.h"

#include "base/default_sizes.h"
#include "base/memory_units.h"
#include "source/file/file_reader.h"

namespace streamer {
namespace {

class FileSource final : public Source {
 public:
  explicit FileSource(const SourceContext& context)
      : preference_(context.options.fs_strategy),
        budget_(context.budget),
        systems_(
            std::make_shared<FileSystems>(context.options.concurrency_for(SourceKind::kFile))) {
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
  return std::unique_ptr<Source>(std::make_unique<FileSource>(context));
}

}  // namespace streamer
