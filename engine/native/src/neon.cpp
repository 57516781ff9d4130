// Compiled with the ARMv8.2 dot product switched on, and asked only where the machine has it.
#include "kernels.h"

#if defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#include <math.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "numbers.h"
namespace {
#include "lanes_neon.h"
}
#include "kernels.inl"

const dyno::Kernels *dyno::neon() {
#if defined(__linux__)
    constexpr unsigned long kDotProduct = 1 << 20;  // HWCAP_ASIMDDP
    if (!(getauxval(AT_HWCAP) & kDotProduct)) return nullptr;
#endif
    return table(DYNO_NEON, "NEON");
}
#else
const dyno::Kernels *dyno::neon() { return nullptr; }
#endif
