// Calls that take turns on what one Python object owns, through signal handlers and forks. Every member
// is read and written with the interpreter lock held, so that no fork of Python's comes in between.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

namespace trpo_fast {

class Turns {
 public:
  // Waits, without the interpreter lock, for a call of another thread; signals are served meanwhile
  // and what their handlers raise is thrown. A thread that is inside already cannot wait for itself:
  // it is in a signal handler, which the call below it runs, and gets a std::runtime_error.
  // Returns what cut_off says.
  bool begin();
  void end();

  // True, once, in the child of a fork that another thread's call did not survive: what that call
  // worked on may be in any state, so it must be neither used nor destroyed.
  bool cut_off();

 private:
  struct Queue {
    std::mutex mutex;  // never held while waiting for the interpreter lock
    std::condition_variable left;
  };

  uint64_t owner_ = 0;  // the thread inside, as this_thread() counts them; 0: none
  uint64_t forks_ = 0;  // how many this object has seen
  std::unique_ptr<Queue> queue_ = std::make_unique<Queue>();
};

}  // namespace trpo_fast
