// The CPU kernels, compiled once for each instruction set by the file that includes this one, which defines
//   MSDA_INSTRUCTIONS    name of the instruction set, a namespace
//   MSDA_TARGET          attribute that lets a function use it
//   MSDA_REGISTER_BYTES  size of its vector registers
#define MSDA_FUNCTION inline __attribute__((always_inline)) MSDA_TARGET
#define MSDA_INLINE MSDA_FUNCTION

#include "cpu_backward.h"
#include "cpu_forward.h"
#include "cpu_kernels.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

CpuKernels kernels_for(c10::ScalarType value) {
  switch (value) {
    case c10::ScalarType::Float: return {forward<float>, backward<float>};
    case c10::ScalarType::Double: return {forward<double>, backward<double>};
    case c10::ScalarType::BFloat16: return {forward<c10::BFloat16>, backward<c10::BFloat16>};
    case c10::ScalarType::Half: return {forward<c10::Half>, backward<c10::Half>};
    default: return {nullptr, nullptr};
  }
}

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
