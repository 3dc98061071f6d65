// Memory for large results. Most of the time that a fresh large tensor takes can be the operating system's: it hands
// out pages of 4 KB as they are first touched, one interrupt and one piece of bookkeeping for each.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

namespace ms_deform_attn {

constexpr size_t kLarge = size_t{1} << 22;  // bytes

// An uninitialised tensor all of which is going to be written: large ones ask for pages of 2 MB.
inline at::Tensor empty_for_writing(at::IntArrayRef shape, const at::TensorOptions& options) {
  at::Tensor tensor = at::empty(shape, options);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (tensor.nbytes() >= kLarge) {
    constexpr uintptr_t kPage = uintptr_t{1} << 21;
    const auto begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
    const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + tensor.nbytes()) / kPage * kPage;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // only a hint, so its failure is none
  }
#endif
  return tensor;
}

// A tensor of zeros few of which are going to be touched. Large ones are the system's pages of zeros as they are: they
// are not written, and those that are never touched take no memory.
inline at::Tensor zeros_on_demand(at::IntArrayRef shape, const at::TensorOptions& options) {
#if defined(__linux__)
  const size_t bytes = c10::multiply_integers(shape) * options.dtype().itemsize();
  if (bytes >= kLarge) {
    void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages != MAP_FAILED) {
      return at::from_blob(pages, shape, [bytes](void* data) { munmap(data, bytes); }, options);
    }
  }
#endif
  return at::zeros(shape, options);
}

}  // namespace ms_deform_attn
