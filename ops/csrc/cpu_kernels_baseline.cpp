// Whatever the compiler may use anywhere: SSE2 on x86-64, Neon on 64-bit Arm.
#define MSDA_INSTRUCTIONS baseline
#define MSDA_TARGET
#define MSDA_REGISTER_BYTES 16
#include "cpu_kernels_impl.h"
