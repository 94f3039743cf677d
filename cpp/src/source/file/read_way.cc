#include "source/file/read_way.h"

namespace streamer {
namespace {

enum Fact { kNo, kYes, kAny };

struct Row {
  FsStrategy strategy;
  Fact costly;
  Fact others;
  Fact cached;
  ReadWay way;
};

// The first row that fits decides.
constexpr Row kTable[] = {
    // strategy            costly others cached way
    {FsStrategy::kMapped, kAny, kAny, kAny, ReadWay::kView},
    {FsStrategy::kBuffered, kAny, kAny, kAny, ReadWay::kBuffered},
    {FsStrategy::kDirect, kAny, kAny, kYes, ReadWay::kBuffered},
    {FsStrategy::kDirect, kAny, kAny, kNo, ReadWay::kDirect},
    {FsStrategy::kAuto, kNo, kAny, kAny, ReadWay::kView},
    {FsStrategy::kAuto, kYes, kYes, kAny, ReadWay::kView},
    {FsStrategy::kAuto, kYes, kNo, kYes, ReadWay::kView},
    {FsStrategy::kAuto, kYes, kNo, kNo, ReadWay::kDirect},
};

// Asks for a fact at most once.
class Answer {
 public:
  using Question = bool (RangeFacts::*)() const;
  Answer(const RangeFacts& facts, Question question) : facts_(facts), question_(question) {}
  bool fits(Fact wanted) {
    if (wanted == kAny) return true;
    if (known_ == kAny) known_ = (facts_.*question_)() ? kYes : kNo;
    return known_ == wanted;
  }

 private:
  const RangeFacts& facts_;
  const Question question_;
  Fact known_ = kAny;
};

}  // namespace

ReadWay choose_way(FsStrategy strategy, const RangeFacts& facts) {
  Answer costly(facts, &RangeFacts::cache_is_costly);
  Answer others(facts, &RangeFacts::read_by_others);
  Answer cached(facts, &RangeFacts::cached);
  for (const Row& row : kTable) {
    if (row.strategy == strategy && costly.fits(row.costly) && others.fits(row.others) &&
        cached.fits(row.cached)) {
      return row.way;
    }
  }
  return ReadWay::kBuffered;
}

}  // namespace streamer
