// Zeros that cost nothing until they are touched.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros_like.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ms_deform_attn {

// A contiguous tensor of zeros like `tensor`. Where it is large, the kernel's pages of zeros are used as they are: they
// are not written, and those that are never touched take no memory.
inline at::Tensor zeros_on_demand(const at::Tensor& tensor) {
#if defined(__linux__)
  constexpr size_t kWorthPages = size_t{1} << 22;
  const size_t bytes = tensor.numel() * tensor.element_size();
  if (bytes >= kWorthPages) {
    void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages != MAP_FAILED) {
      return at::from_blob(pages, tensor.sizes(), [bytes](void* data) { munmap(data, bytes); }, tensor.options());
    }
  }
#endif
  return at::zeros_like(tensor, at::MemoryFormat::Contiguous);
}

}  // namespace ms_deform_attn
