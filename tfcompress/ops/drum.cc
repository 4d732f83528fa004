// DRUM's truncation in one pass over the data, in place where TensorFlow allows.
//
// A DRUM multiplier looks at the k leading bits of its operands and sets the last
// of them. Results are those of _tensorflow.py and _reference.py, bit by bit.

#include <cstdint>
#include <type_traits>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

// One library for every processor of the kind: the loops are compiled several
// times, and the fastest that the processor has is taken when it is loaded.
#if defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

using tensorflow::int64;

// What the loop over floats of unsigned type U needs to know.
template <typename U>
struct FloatBits {
  U sign, infinity, smallest;  // bits of -0.0, of inf, of the smallest normal
  U keep, set;                 // significand bits to keep and to set
  U limit;                     // magnitudes below it pass (fixed-point grid)
};

template <typename U>
INLINE U TruncateFloat(U x, const FloatBits<U>& f) {
  const U magnitude = x & static_cast<U>(~f.sign);
  const U truncated = (x & f.keep) | f.set;
  const U normal = magnitude < f.smallest ? static_cast<U>(x & f.sign) : truncated;
  return (magnitude >= f.infinity) | (magnitude < f.limit) ? x : normal;
}

// No branches and no count of leading zeros, so that it vectorises.
template <typename S>
INLINE S TruncateInteger(S x, int bits) {
  using U = std::make_unsigned_t<S>;
  const U negative = static_cast<U>(x < 0 ? ~U{0} : U{0});
  const U magnitude = static_cast<U>((static_cast<U>(x) ^ negative) - negative);
  U ones = magnitude;
  for (int step = 1; step < static_cast<int>(8 * sizeof(U)); step *= 2) {
    ones = static_cast<U>(ones | (ones >> step));
  }
  const U dropped = static_cast<U>(ones >> bits);
  const U last = static_cast<U>(dropped + 1);
  const U kept = static_cast<U>((magnitude & static_cast<U>(~dropped)) | last);
  const U result = static_cast<U>((kept ^ negative) - negative);
  // The lowest number is its own negative; what it would become does not fit.
  const U lowest = static_cast<U>(U{1} << (8 * sizeof(U) - 1));
  return dropped == 0 || static_cast<U>(x) == lowest ? x : static_cast<S>(result);
}

#define FLOAT_LOOP(U)                                                     \
  CLONES void Truncate(const U* in, U* out, int64 n, FloatBits<U> f) {    \
    for (int64 i = 0; i < n; ++i) out[i] = TruncateFloat<U>(in[i], f);    \
  }
#define INTEGER_LOOP(S)                                                   \
  CLONES void Truncate(const S* in, S* out, int64 n, int bits) {          \
    for (int64 i = 0; i < n; ++i) out[i] = TruncateInteger<S>(in[i], bits); \
  }
FLOAT_LOOP(uint16_t)
FLOAT_LOOP(uint32_t)
FLOAT_LOOP(uint64_t)
INTEGER_LOOP(int8_t)
INTEGER_LOOP(int16_t)
INTEGER_LOOP(int32_t)
INTEGER_LOOP(int64_t)

// Widths of the formats: the unsigned type and the stored significand bits.
template <typename T> struct Layout { static constexpr int kMantissa = 0; };
template <> struct Layout<Eigen::half> { using Bits = uint16_t; static constexpr int kMantissa = 10; };
template <> struct Layout<tensorflow::bfloat16> { using Bits = uint16_t; static constexpr int kMantissa = 7; };
template <> struct Layout<float> { using Bits = uint32_t; static constexpr int kMantissa = 23; };
template <> struct Layout<double> { using Bits = uint64_t; static constexpr int kMantissa = 52; };

struct Settings {
  int bits;
  bool fixed_point;
  int fraction_bits;
};

template <typename T>
FloatBits<typename Layout<T>::Bits> Prepare(const Settings& settings) {
  using U = typename Layout<T>::Bits;
  constexpr int kMantissa = Layout<T>::kMantissa;
  constexpr int kBias = (1 << (8 * static_cast<int>(sizeof(U)) - kMantissa - 2)) - 1;
  FloatBits<U> f;
  f.sign = static_cast<U>(U{1} << (8 * sizeof(U) - 1));
  f.smallest = static_cast<U>(U{1} << kMantissa);
  f.infinity = static_cast<U>(f.sign - f.smallest);
  const U last = static_cast<U>(U{1} << (kMantissa + 1 - settings.bits));
  f.keep = static_cast<U>(~static_cast<U>(last - 1));
  f.set = settings.bits == 1 ? U{0} : last;
  f.limit = 0;
  if (settings.fixed_point) {
    const int stored = settings.bits - settings.fraction_bits + kBias;
    if (stored > 2 * kBias) {
      f.limit = f.infinity;
    } else if (stored > 0) {
      f.limit = static_cast<U>(static_cast<U>(stored) << kMantissa);
    }
  }
  return f;
}

template <typename T>
class DrumTruncateOp : public tensorflow::OpKernel {
 public:
  explicit DrumTruncateOp(tensorflow::OpKernelConstruction* context)
      : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("bits", &settings_.bits));
    OP_REQUIRES_OK(context, context->GetAttr("fixed_point", &settings_.fixed_point));
    OP_REQUIRES_OK(context,
                   context->GetAttr("fraction_bits", &settings_.fraction_bits));
    const int most = kFloat ? Layout<T>::kMantissa + 1
                            : std::min<int>(settings_.bits, 8 * sizeof(T) - 1);
    OP_REQUIRES(context, settings_.bits <= most || !kFloat,
                tensorflow::errors::InvalidArgument(
                    "bits must be at most ", most, ", got ", settings_.bits));
    if (!kFloat) settings_.bits = most;
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& input = context->input(0);
    tensorflow::Tensor* output = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(
                                {0}, 0, input.shape(), &output));
    const T* in = input.flat<T>().data();
    T* out = output->flat<T>().data();
    const auto& workers = *context->device()->tensorflow_cpu_worker_threads();
    // About two elements a cycle; memory is the limit beyond the caches.
    tensorflow::Shard(workers.num_threads, workers.workers, input.NumElements(), 2,
                      [&](int64 begin, int64 end) {
                        Run(in + begin, out + begin, end - begin);
                      });
  }

 private:
  static constexpr bool kFloat = Layout<T>::kMantissa > 0;

  void Run(const T* in, T* out, int64 n) const {
    if constexpr (kFloat) {
      using U = typename Layout<T>::Bits;
      Truncate(reinterpret_cast<const U*>(in), reinterpret_cast<U*>(out), n,
               Prepare<T>(settings_));
    } else {
      Truncate(in, out, n, settings_.bits);
    }
  }

  Settings settings_;
};

}  // namespace

REGISTER_OP("Tfcompress>DrumTruncate")
    .Input("x: T")
    .Output("y: T")
    .Attr("T: {half, bfloat16, float, double, int8, int16, int32, int64}")
    .Attr("bits: int >= 1")
    .Attr("fixed_point: bool = false")
    .Attr("fraction_bits: int = 0")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape)
    .Doc("The operand that a DRUM multiplier with `bits` bits makes of `x`.");

#define REGISTER(T)                                                         \
  REGISTER_KERNEL_BUILDER(Name("Tfcompress>DrumTruncate")                   \
                              .Device(tensorflow::DEVICE_CPU)               \
                              .TypeConstraint<T>("T"),                      \
                          DrumTruncateOp<T>);
REGISTER(Eigen::half)
REGISTER(tensorflow::bfloat16)
REGISTER(float)
REGISTER(double)
REGISTER(int8_t)
REGISTER(int16_t)
REGISTER(int32_t)
REGISTER(int64_t)
