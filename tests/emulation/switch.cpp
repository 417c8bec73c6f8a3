// The switch between fibers: hand-written on x86-64, ucontext elsewhere, announced to ASan and TSan.
#include <cstdlib>

#include "fibers.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(TRPO_EMULATE_USE_UCONTEXT)
// Saves the callee-saved registers on the old stack and takes those of the new one.
asm(R"(
.text
.globl trpo_emulation_switch
.hidden trpo_emulation_switch
.type trpo_emulation_switch,@function
trpo_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size trpo_emulation_switch,.-trpo_emulation_switch
)");
extern "C" void trpo_emulation_switch(void** save, void* to);
#endif

namespace emulation {

namespace {
[[maybe_unused]] void* launcher_pointer;
[[maybe_unused]] void* launcher_fake;
const void* launcher_bottom;
[[maybe_unused]] size_t launcher_size;
[[maybe_unused]] void* launcher_tsan;
#if defined(TRPO_EMULATE_USE_UCONTEXT)
ucontext_t launcher_context;
#endif
}  // namespace

size_t stack_bytes() {
#if defined(__SANITIZE_ADDRESS__)
  return 256 * 1024;
#else
  return 64 * 1024;
#endif
}

void adopt_launcher() {
  launcher_bottom = nullptr;
#if defined(TRPO_EMULATE_TSAN)
  launcher_tsan = __tsan_get_current_fiber();
#endif
}

void enter_first_time() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!launcher_bottom) {  // the first fiber of a launch is always entered from the launcher
    launcher_bottom = bottom;
    launcher_size = size;
  }
#endif
}

void prepare(Fiber* fiber, void (*entry)()) {
#if defined(TRPO_EMULATE_USE_UCONTEXT)
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = stack_bytes();
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, entry, 0);
#else
  // Tops of stacks are staggered, or the hot frames of all threads share the same cache sets.
  const int index = static_cast<int>(fiber - resident.fibers);
  uintptr_t top = reinterpret_cast<uintptr_t>(fiber->stack) + stack_bytes() - index * 192 % 4096;
  void** stack = reinterpret_cast<void**>(top & ~uintptr_t{15});
  *--stack = nullptr;  // a return address the entry never uses, so that frames are aligned
  *--stack = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--stack = nullptr;
  fiber->stack_pointer = stack;
#endif
}

void switch_context(Fiber* from, Fiber* to, [[maybe_unused]] bool dying) {
  ++counters.switches;
  current = to;
#if defined(__SANITIZE_ADDRESS__)
  void** fake = from ? &from->fake_stack : &launcher_fake;
  __sanitizer_start_switch_fiber(dying ? nullptr : fake, to ? to->stack : launcher_bottom,
                                 to ? stack_bytes() : launcher_size);
#endif
#if defined(TRPO_EMULATE_TSAN)
  __tsan_switch_to_fiber(to ? to->tsan : launcher_tsan, 1 /* orders nothing */);
#endif
#if defined(TRPO_EMULATE_USE_UCONTEXT)
  swapcontext(from ? &from->context : &launcher_context, to ? &to->context : &launcher_context);
#else
  trpo_emulation_switch(from ? &from->stack_pointer : &launcher_pointer,
                        to ? to->stack_pointer : launcher_pointer);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from ? from->fake_stack : launcher_fake, nullptr, nullptr);
#endif
}

}  // namespace emulation
