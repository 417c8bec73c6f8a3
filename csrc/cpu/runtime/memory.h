// Arrays of the core: aligned for whole vectors, allocated when an operator is made or first used,
// never inside an iteration; every byte is counted for scratch_bytes.
//
// Every update makes an operator of the same size. Fresh memory would cost a page fault for every
// 4 KiB, a fifth of a small solve, so large arrays that are freed wait for the next (memory.cpp).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace trpo_fast::cpu {

void* take_memory(size_t bytes);  // aligned to 64; throws std::bad_alloc
void give_memory(void* memory, size_t bytes);

template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(int64_t count) : count_(count) {
    if (count == 0) return;
    data_ = static_cast<T*>(take_memory(static_cast<size_t>(count) * sizeof(T)));
  }
  Array(Array&& other) noexcept { swap(other); }
  Array& operator=(Array&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Array() {
    if (data_) give_memory(data_, static_cast<size_t>(bytes()));
  }

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

}  // namespace trpo_fast::cpu
