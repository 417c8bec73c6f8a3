// Who is inside, who waits, and what a fork leaves of both.
#include "bindings/turns.h"

#include <pthread.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <stdexcept>

namespace py = pybind11;

namespace trpo_fast {
namespace {

constexpr std::chrono::milliseconds kSignalsEvery{100};

// From 1 on. No number comes twice, unlike the system's, of which a child may give a dead thread's to
// a new one.
uint64_t this_thread() {
  static std::atomic<uint64_t> last{0};
  thread_local const uint64_t number = ++last;
  return number;
}

// The forks that made this process, and the only thread that came through the last of them.
uint64_t forks = 0, forked_by = 0;

__attribute__((constructor)) void register_fork_handler() {
  pthread_atfork(nullptr, nullptr, [] {
    ++forks;
    forked_by = this_thread();
  });
}

}  // namespace

bool Turns::cut_off() {
  if (forks_ == forks) return false;
  forks_ = forks;
  (void)queue_.release();  // a thread that is gone may hold it; it costs a hundred bytes a fork
  queue_ = std::make_unique<Queue>();
  if (owner_ == 0 || owner_ == forked_by) return false;
  owner_ = 0;
  return true;
}

bool Turns::begin() {
  bool cut = cut_off();
  while (owner_ != 0) {
    if (owner_ == this_thread()) {
      throw std::runtime_error(
          "FisherOperator: this operator is computing in this thread, in the call that the signal "
          "handler interrupts; use another operator in the handler");
    }
    {
      std::unique_lock<std::mutex> lock(queue_->mutex);
      const py::gil_scoped_release release;
      queue_->left.wait_for(lock, kSignalsEvery);
      lock.unlock();
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    cut = cut_off();  // the handler of a signal may have forked
  }
  owner_ = this_thread();
  return cut;
}

void Turns::end() {
  owner_ = 0;
  const std::lock_guard<std::mutex> lock(queue_->mutex);
  queue_->left.notify_one();
}

}  // namespace trpo_fast
