// Arrays of the core: aligned for whole vectors, allocated when an operator is made or first used,
// never inside an iteration; every byte is counted for scratch_bytes.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace trpo_fast {

template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(int64_t count) : count_(count) {
    if (count == 0) return;
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
    if (!data_) throw std::bad_alloc();
  }
  Array(Array&& other) noexcept { swap(other); }
  Array& operator=(Array&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Array() { std::free(data_); }

  static Array zeros(int64_t count) {
    Array made(count);
    if (count) std::memset(made.data_, 0, static_cast<size_t>(count) * sizeof(T));
    return made;
  }

  // Replaced by a larger array, contents lost, if it holds fewer.
  void reserve(int64_t count) {
    if (count > count_) *this = Array(count);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

 private:
  void swap(Array& other) {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
  }

  T* data_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace trpo_fast
