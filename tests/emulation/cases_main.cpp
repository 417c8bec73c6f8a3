// Runs the registered cases: cases_xxx [--list] [--order fifo|lifo|random] [--seed N]
// [--preempt P] [name...]. Without names every case that plants no bug. Exits 1 if one failed.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "cases.h"

namespace emulation_cases {

namespace {
Case* first_case;
bool failed;
void (*on_begin)();
void (*on_end)(const char* name);
}  // namespace

Case::Case(const char* name, void (*body)(), bool planted)
    : name(name), body(body), planted(planted), next(first_case) {
  first_case = this;
}

void watch_cases(void (*begin)(), void (*end)(const char* name)) {
  on_begin = begin;
  on_end = end;
}

void report(const char* file, int line, const std::string& text) {
  failed = true;
  printf("%s:%d: %s\n", file, line, text.c_str());
}

namespace {

bool run_case(const Case& c) {
  failed = false;
  if (on_begin) on_begin();
  c.body();
  if (on_end) on_end(c.name);
  printf("%s %s\n", failed ? "FAILED" : "ok", c.name);
  fflush(stdout);
  return !failed;
}

bool named(const Case& c, char** names) {
  if (!*names) return !c.planted;
  for (; *names; ++names)
    if (!strcmp(*names, c.name)) return true;
  return false;
}

emulation::Order parse_order(const char* word) {
  if (!strcmp(word, "fifo")) return emulation::Order::kFifo;
  if (!strcmp(word, "lifo")) return emulation::Order::kLifo;
  if (!strcmp(word, "random")) return emulation::Order::kRandom;
  fprintf(stderr, "--order: expected fifo, lifo or random, got %s\n", word);
  exit(2);
}

}  // namespace

// A wild access in a kernel: says which CUDA thread made it. (Sanitizers have their own report.)
[[maybe_unused]] void report_fault(int signal) {
  const emulation::Thread* t = emulation::current;
  printf("fault (signal %d)", signal);
  if (t) printf(" in block %u thread %u", t->block_index.x, t->thread_index.x);
  printf("\n");
  fflush(stdout);
  _exit(3);
}

void watch_faults() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  static char stack[64 * 1024];  // the fault may be the end of a fiber's stack
  stack_t alternate = {};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_handler = report_fault;
  action.sa_flags = SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
#endif
}

int run_cases(char** words) {
  watch_faults();
  bool list = false;
  for (; *words && !strncmp(*words, "--", 2); ++words) {
    if (!strcmp(*words, "--list")) {
      list = true;
    } else if (!strcmp(*words, "--order") && words[1]) {
      emulation::options.order = parse_order(*++words);
    } else if (!strcmp(*words, "--seed") && words[1]) {
      emulation::options.seed = strtoull(*++words, nullptr, 10);
    } else if (!strcmp(*words, "--preempt") && words[1]) {
      emulation::options.preempt = strtof(*++words, nullptr);
    } else {
      fprintf(stderr, "unknown option %s\n", *words);
      return 2;
    }
  }
  int failures = 0, ran = 0;
  for (const Case* c = first_case; c; c = c->next) {
    if (list) printf("%s %s\n", c->planted ? "bug" : "case", c->name);
    if (list || !named(*c, words)) continue;
    ++ran;
    failures += !run_case(*c);
  }
  if (!list && ran == 0) fprintf(stderr, "no such case\n");
  return failures > 0 || (!list && ran == 0);
}

}  // namespace emulation_cases

int main(int, char** words) { return emulation_cases::run_cases(words + 1); }
