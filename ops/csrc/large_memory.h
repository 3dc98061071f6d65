// Memory for large results. Most of the time that a fresh large tensor takes can be the operating system's: it hands
// out pages of 4 KB as they are first touched, one interrupt and one piece of bookkeeping for each, and clears them at
// a fraction of the speed at which a program writes zeros to pages it has.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <cstdint>
#include <cstring>

namespace ms_deform_attn {

constexpr size_t kLarge = size_t{1} << 22;  // bytes

// Asks for pages of 2 MB. It is only a hint, so its failure is none.
inline void ask_for_large_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + bytes) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// An uninitialised tensor all of which is going to be written.
inline at::Tensor empty_for_writing(at::IntArrayRef shape, const at::TensorOptions& options) {
  at::Tensor tensor = at::empty(shape, options);
  if (tensor.nbytes() >= kLarge) ask_for_large_pages(tensor.mutable_data_ptr(), tensor.nbytes());
  return tensor;
}

#if defined(__linux__)
// Memory of the large tensor of zeros that was given back last, for the next one of its size: the layers of a decoder,
// and training steps, ask for the same again and again. Until then the system may take its pages for others (MADV_FREE),
// so that keeping them costs nobody anything.
class KeptMemory {
 public:
  // Kept memory of this size, with anything in it, or null.
  static void* take(size_t bytes) {
    Region* region = kept_.exchange(nullptr);
    if (region == nullptr) return nullptr;
    void* memory = region->bytes == bytes ? region->memory : nullptr;
    if (memory == nullptr) munmap(region->memory, region->bytes);
    delete region;
    return memory;
  }
  static void give_back(void* memory, size_t bytes) {
#if defined(MADV_FREE)
    const bool keeps = madvise(memory, bytes, MADV_FREE) == 0;
#else
    const bool keeps = false;
#endif
    Region* other = keeps ? kept_.exchange(new Region{memory, bytes}) : new Region{memory, bytes};
    if (other != nullptr) munmap(other->memory, other->bytes);
    delete other;
  }

 private:
  struct Region {
    void* memory;
    size_t bytes;
  };
  static inline std::atomic<Region*> kept_{nullptr};
};

inline void fill_with_zeros(void* memory, size_t bytes) {
  at::parallel_for(0, static_cast<int64_t>(bytes), kLarge, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(memory) + begin, 0, end - begin);
  });
}
#endif

// A tensor of zeros to some of which something is going to be added.
inline at::Tensor zeros_for_adding(at::IntArrayRef shape, const at::TensorOptions& options) {
#if defined(__linux__)
  const size_t bytes = c10::multiply_integers(shape) * options.dtype().itemsize();
  if (bytes >= kLarge) {
    void* memory = KeptMemory::take(bytes);
    if (memory != nullptr) {
      fill_with_zeros(memory, bytes);
    } else {
      memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);  // the system's zeros
      if (memory != MAP_FAILED) ask_for_large_pages(memory, bytes);
    }
    if (memory != MAP_FAILED) {
      return at::from_blob(memory, shape, [bytes](void* data) { KeptMemory::give_back(data, bytes); }, options);
    }
  }
#endif
  return at::zeros(shape, options);
}

}  // namespace ms_deform_attn
