// Check macros of the binding: a failed check throws std::invalid_argument (ValueError in Python)
// with a sentence made of what was expected and what came. Uses the STL, so the isa_*.cpp units
// must not include it.
#pragma once
#include <cstring>
#include <sstream>
#include <stdexcept>

namespace trpo_fast {

template <typename Expected, typename Got>
[[noreturn]] void fail_check(const char* condition, const char* file, int line,
                             const Expected& expected, const Got& got) {
  const char* slash = std::strrchr(file, '/');  // the build's folder tells a reader nothing
  std::ostringstream text;
  text << "expected " << expected << ", got " << got << " (" << condition << ", "
       << (slash ? slash + 1 : file) << ":" << line << ")";
  throw std::invalid_argument(text.str());
}

}  // namespace trpo_fast

// TRPO_CHECK(rows.count > 0, "at least one row", rows.count): both descriptions are anything an
// ostream prints.
#define TRPO_CHECK(condition, expected, got)                                      \
  do {                                                                            \
    if (!(condition)) [[unlikely]]                                                \
      ::trpo_fast::fail_check(#condition, __FILE__, __LINE__, (expected), (got)); \
  } while (0)

// TRPO_CHECK_EQ("theta: length", theta_size, P): the usual case, equality with a named quantity.
#define TRPO_CHECK_EQ(what, got_value, expected_value)                            \
  do {                                                                            \
    const auto trpo_got = (got_value);                                            \
    const auto trpo_expected = (expected_value);                                  \
    if (!(trpo_got == trpo_expected)) [[unlikely]]                                \
      ::trpo_fast::fail_check(what, __FILE__, __LINE__, trpo_expected, trpo_got); \
  } while (0)
