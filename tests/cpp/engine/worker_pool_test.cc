#include "engine/worker_pool.h"

#include <gtest/gtest.h>

namespace streamer {
namespace {

class WorkerPoolTest : public testing::Test {
 protected:
  // Workers 0 to `count` - 1, none of which is parked.
  void start(int count) {
    for (int i = 0; i < count; ++i) ASSERT_EQ(pool_.start(count), i);
  }
  void park(WorkerId worker, bool watches = false) {
    pool_.arrived(worker);
    pool_.park(worker, watches);
  }
  void add_tasks(int count) {
    for (int i = 0; i < count; ++i) pool_.add_task([] {}, 8);
  }

  WorkerPool pool_;
};

TEST_F(WorkerPoolTest, StartsAsManyAsAreWanted) {
  start(3);
  EXPECT_FALSE(pool_.start(3));
  EXPECT_EQ(pool_.workers(), 3);
}

TEST_F(WorkerPoolTest, StartsNobodyWhileSomebodyIsParkedOrCalled) {
  start(1);
  park(0);
  EXPECT_FALSE(pool_.start(8));
  EXPECT_EQ(pool_.call(), 0);
  EXPECT_FALSE(pool_.start(8));
  pool_.arrived(0);
  EXPECT_TRUE(pool_.start(8));
}

TEST_F(WorkerPoolTest, MakesDoWithTheWorkersThatCouldBeStarted) {
  start(2);
  ASSERT_TRUE(pool_.start(3));
  pool_.not_started();
  EXPECT_EQ(pool_.workers(), 2);
  EXPECT_FALSE(pool_.start(3));
}

TEST_F(WorkerPoolTest, CallsTheOneThatWasParkedLast) {
  start(3);
  for (const WorkerId worker : {2, 0, 1}) park(worker);
  EXPECT_EQ(pool_.call(), 1);
}

TEST_F(WorkerPoolTest, CallsNobodyElseBeforeTheOneThatWasCalledArrives) {
  start(3);
  for (const WorkerId worker : {0, 1, 2}) park(worker);
  EXPECT_EQ(pool_.call(), 2);
  EXPECT_FALSE(pool_.call());
  pool_.arrived(2);
  EXPECT_EQ(pool_.call(), 1);
}

TEST_F(WorkerPoolTest, CallsTheOneThatWatchesLast) {
  start(3);
  park(0);
  park(1);
  park(2, /*watches=*/true);
  EXPECT_EQ(pool_.call(), 1);
  pool_.arrived(1);
  EXPECT_EQ(pool_.call(), 0);
  pool_.arrived(0);
  EXPECT_TRUE(pool_.any_watches());
  EXPECT_EQ(pool_.call(), 2);
  EXPECT_FALSE(pool_.any_watches());
}

TEST_F(WorkerPoolTest, AWorkerThatReturnsByItselfIsNotParkedAnyMore) {
  start(2);
  park(0);
  park(1, /*watches=*/true);
  pool_.arrived(1);
  EXPECT_FALSE(pool_.any_watches());
  EXPECT_EQ(pool_.call(), 0);
}

TEST_F(WorkerPoolTest, CallsAWorkerThatSuitsAlsoBesideAnother) {
  start(3);
  for (const WorkerId worker : {0, 1, 2}) park(worker);
  ASSERT_EQ(pool_.call(), 2);
  std::optional<WorkerId> called;
  EXPECT_TRUE(pool_.call_one_that([](WorkerId worker) { return worker == 0; }, &called));
  EXPECT_EQ(called, 0);
  called.reset();
  EXPECT_TRUE(pool_.call_one_that([](WorkerId worker) { return worker == 2; }, &called));
  EXPECT_FALSE(called) << "it is called already";
  EXPECT_FALSE(pool_.call_one_that([](WorkerId) { return false; }, &called));
}

TEST_F(WorkerPoolTest, TasksComeFirstIfNoReadWaits) {
  start(4);
  add_tasks(4);
  for (const WorkerId worker : {0, 1, 2, 3}) {
    pool_.arrived(worker);
    ASSERT_TRUE(pool_.task_is_next(/*reads_wait=*/false));
    (void)pool_.take_task(worker);
  }
  EXPECT_FALSE(pool_.has_tasks());
}

TEST_F(WorkerPoolTest, TasksOccupyHalfOfTheWorkersWhileReadsWait) {
  start(5);
  add_tasks(5);
  int in_tasks = 0;
  for (const WorkerId worker : {0, 1, 2, 3, 4}) {
    pool_.arrived(worker);
    if (!pool_.task_is_next(/*reads_wait=*/true)) continue;
    (void)pool_.take_task(worker);
    ++in_tasks;
  }
  EXPECT_EQ(in_tasks, 2);
  pool_.arrived(0);  // from its task
  EXPECT_TRUE(pool_.task_is_next(/*reads_wait=*/true));
}

TEST_F(WorkerPoolTest, AJobEndsWhenItsWorkerAsksAgain) {
  start(2);
  EXPECT_FALSE(pool_.any_has_job());  // they have not asked yet
  pool_.arrived(0);
  pool_.begin_job(0);
  pool_.arrived(1);
  EXPECT_TRUE(pool_.any_has_job());
  pool_.arrived(0);
  EXPECT_FALSE(pool_.any_has_job());
}

TEST_F(WorkerPoolTest, ASingleWorkerAlternates) {
  start(1);
  add_tasks(3);
  for (int i = 0; i < 3; ++i) {
    pool_.arrived(0);
    ASSERT_TRUE(pool_.task_is_next(/*reads_wait=*/true));
    (void)pool_.take_task(0);
    pool_.arrived(0);
    EXPECT_FALSE(pool_.task_is_next(/*reads_wait=*/true));
  }
}

}  // namespace
}  // namespace streamer
