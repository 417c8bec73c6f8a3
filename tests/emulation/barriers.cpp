// __syncthreads, grid_sync, memory fences and cp.async. A barrier is released by the last arrival,
// which checks that everybody waits at the same line of source.
#include <cstdlib>

#include "fibers.h"

namespace emulation {

namespace {

bool same(Site a, Site b) { return a.line == b.line && a.file == b.file; }

// All live threads of [begin, end) wait in `state`: checks their sites and makes them ready.
void release(Fiber* begin, Fiber* end, State state, unsigned exited, const char* what) {
  Fiber* first = nullptr;
  for (Fiber* f = begin; f != end; ++f) {
    if (f->state != state) continue;
    if (!first) first = f;
    if (!same(f->site, first->site))
      fail_with("divergent %s: block %u thread %u at %s:%d, block %u thread %u at %s:%d", what,
                first->block_index.x, first->thread_index.x, first->site.file, first->site.line,
                f->block_index.x, f->thread_index.x, f->site.file, f->site.line);
  }
  if (exited)
    fail_with(
        "early exit: %u thread(s) left before block %u thread %u and others reached %s at "
        "%s:%d",
        exited, first->block_index.x, first->thread_index.x, what, first->site.file,
        first->site.line);
  progress();
  for (Fiber* f = begin; f != end; ++f)
    if (f->state == state) make_ready(f);
}

void release_block(Block* block) {
  Fiber* begin = resident.fibers + (block - resident.blocks) * resident.threads;
  block->vote_result = block->votes;
  block->votes = 0;
  block->waiting = 0;
  ++block->generation;
  ++counters.block_barriers;
  release(begin, begin + resident.threads, State::kAtBlock, resident.threads - block->live,
          "__syncthreads");
}

void release_grid() {
  resident.grid_waiting = 0;
  ++resident.grid_generation;
  ++counters.grid_barriers;
  release(resident.fibers, resident.fibers + resident.fiber_count, State::kAtGrid,
          static_cast<unsigned>(resident.fiber_count) - resident.grid_live, "grid_sync");
}

}  // namespace

int block_vote(int predicate, Site site) {
  Fiber* me = self();
  Block* block = me->block;
  me->state = State::kAtBlock;
  me->site = site;
  block->votes += predicate != 0;
  // Two sync objects by generation: one would order a thread with arrivals it did not wait for.
  const char* order = &block->order[block->generation & 1];
  publish(order);
  if (++block->waiting == block->live) release_block(block);
  suspend();
  receive(order);
  return block->vote_result;  // the next release needs this thread's arrival, so it is still ours
}

void wait_for_block(Site site) { block_vote(0, site); }

void wait_for_grid(Site site) {
  Fiber* me = self();
  me->state = State::kAtGrid;
  me->site = site;
  const char* order = &resident.grid_order[resident.grid_generation & 1];
  publish(order);
  if (++resident.grid_waiting == resident.grid_live) release_grid();
  suspend();
  receive(order);
}

void leave() {
  Fiber* me = self();
  Block* block = me->block;
  block->warps[me->warp].alive &= ~(1u << me->lane);
  --block->live;
  --resident.grid_live;
  if (resident.failed) return;
  if (me->copy_count)
    fail("cp.async still in flight when its thread exits", me->copies[0].copy.site);
  if (block->live && block->waiting == block->live) release_block(block);
  if (resident.grid_live && resident.grid_waiting == resident.grid_live) release_grid();
}

// A fence publishes with the atomics that follow it and receives from those before it, as in C++.
void fence() {
  Fiber* me = self();
  if (!me) return;
  for (int i = 0; i < me->fence_count; ++i) receive(me->fence_targets[i]);
  me->fence_count = 0;
  me->fenced = true;
}

void before_atomic(const void* address) {
  if (current && current->fenced) publish(address);
}

void after_atomic(const void* address) {
  Fiber* me = self();
  if (!me) return;
  for (int i = 0; i < me->fence_count; ++i)
    if (me->fence_targets[i] == address) return;
  if (me->fence_count == kMaxFenced) me->fence_count = 0;
  me->fence_targets[me->fence_count++] = address;
}

void async_issue(const AsyncCopy& copy) {
  Fiber* me = self();
  if (!me->copies) me->copies = static_cast<PendingCopy*>(calloc(kMaxAsync, sizeof(PendingCopy)));
  if (me->copy_count == kMaxAsync)
    fail("more than 256 cp.async in flight in one thread", copy.site);
  me->copies[me->copy_count++] = {copy, me->copy_group};
  ++counters.async_copies;
}

void async_commit() { ++self()->copy_group; }

bool async_next(int pending_groups, AsyncCopy* copy) {
  Fiber* me = self();
  for (int i = 0; i < me->copy_count; ++i) {
    if (me->copies[i].group >= me->copy_group - pending_groups) continue;
    *copy = me->copies[i].copy;
    me->copies[i] = me->copies[--me->copy_count];
    return true;
  }
  return false;
}

}  // namespace emulation
