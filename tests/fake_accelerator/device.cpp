// An accelerator for tests: devices of torch named `fake:0`, `fake:1`, ... whose memory is the host's.
//
// Operators compute on the host at once, through torch's fallback to cpu. Time is simulated: each operator keeps its
// device busy for a latency that the caller does not wait for, as with a stream of a real device. Only a
// synchronisation, a copy to the host or an `item()` waits. Memory comes from a caching allocator with a limit. With no
// latency a device is never slower than the host that gives it work, with milliseconds always.
//
// Environment variables, read by each process when it uses a device for the first time:
//   FAKE_DEVICES      number of devices, 2 by default
//   FAKE_MEMORY_MIB   memory of each device, 4096 by default
//   FAKE_LATENCY_US   time that each operator keeps its device busy, 0 by default
//   FAKE_FAULTS       e.g. "0=synchronize-raises:3,1=vanishes:50": a fault of a device after so many calls
//   FAKE_LOG          a file that gets the name of each device that a process initialises
#include <ATen/EmptyTensor.h>
#include <ATen/SDPBackend.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using at::IntArrayRef;
using at::Scalar;
using at::ScalarType;
using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using Clock = std::chrono::steady_clock;

constexpr c10::DeviceType kFake = c10::DeviceType::PrivateUse1;
constexpr int kMaxDevices = 16;
constexpr int64_t kAlignment = 512;

// ---------------------------------------------------------------------------------------------------- configuration

// What goes wrong on a device, from the call number `after` on.
struct Fault {
  enum Kind { kNone, kSynchronizeRaises, kSynchronizeHangs, kVanishes, kNoMemoryFigures } kind = kNone;
  int64_t after = 0;
};

struct DeviceState {
  Clock::time_point busy_until{};
  int64_t operators = 0, synchronizations = 0;
  int64_t allocated = 0, peak_allocated = 0, reserved = 0, peak_reserved = 0, limit = 0, retries = 0, ooms = 0;
  std::multimap<int64_t, void*> cached;  // freed blocks by size
  bool initialized = false;
  Fault fault;
};

struct Configuration {
  pid_t read_by = 0;
  int devices = 2;
  int64_t memory_bytes = 0;
  std::chrono::microseconds latency{0};
};

std::recursive_mutex mutex;
Configuration configuration;
DeviceState states[kMaxDevices];
pid_t initialized_by = 0;
thread_local DeviceIndex current_device = 0;
// Within torch's fallback to cpu, whose copies between device and host are none of the caller's.
thread_local bool in_fallback = false;

int64_t number_of(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr && *text != '\0' ? std::atoll(text) : otherwise;
}

Fault::Kind fault_kind(const std::string& name) {
  static const std::map<std::string, Fault::Kind> kinds = {
      {"synchronize-raises", Fault::kSynchronizeRaises},
      {"synchronize-hangs", Fault::kSynchronizeHangs},
      {"vanishes", Fault::kVanishes},
      {"no-memory-figures", Fault::kNoMemoryFigures}};
  auto entry = kinds.find(name);
  TORCH_CHECK(entry != kinds.end(), "FAKE_FAULTS: there is no fault '", name, "'");
  return entry->second;
}

void read_faults() {
  std::istringstream entries(std::getenv("FAKE_FAULTS") != nullptr ? std::getenv("FAKE_FAULTS") : "");
  for (std::string entry; std::getline(entries, entry, ',');) {
    const auto equals = entry.find('='), colon = entry.find(':');
    const int device = std::atoi(entry.substr(0, equals).c_str());
    const auto name = entry.substr(equals + 1, colon == std::string::npos ? colon : colon - equals - 1);
    states[device % kMaxDevices].fault = {
        fault_kind(name), colon == std::string::npos ? 0 : std::atoll(entry.substr(colon + 1).c_str())};
  }
}

// The configuration of this process. A fork reads it anew: tests fork processes and then set their environment.
const Configuration& configured() {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  if (configuration.read_by != getpid()) {
    configuration.read_by = getpid();
    configuration.devices = static_cast<int>(std::min<int64_t>(number_of("FAKE_DEVICES", 2), kMaxDevices));
    configuration.memory_bytes = number_of("FAKE_MEMORY_MIB", 4096) << 20;
    configuration.latency = std::chrono::microseconds(number_of("FAKE_LATENCY_US", 0));
    for (auto& state : states) {
      state.limit = configuration.memory_bytes;
      state.fault = Fault();
    }
    read_faults();
  }
  return configuration;
}

// The state of a device, which is initialised if need be. As with CUDA, a process cannot use what its parent initialised.
DeviceState& opened(DeviceIndex device) {
  configured();
  if (initialized_by == 0) initialized_by = getpid();
  TORCH_CHECK(initialized_by == getpid(), "fake: a forked process cannot use the devices that its parent initialised");
  TORCH_CHECK(device >= 0 && device < configuration.devices, "fake: there is no device ", int(device));
  auto& state = states[device];
  if (!state.initialized) {
    state.initialized = true;
    if (const char* path = std::getenv("FAKE_LOG")) std::ofstream(path, std::ios::app) << "fake:" << int(device) << "\n";
  }
  return state;
}

// The state of a device that has to do something now. Streams and statistics need no device to be there.
DeviceState& used(DeviceIndex device) {
  auto& state = opened(device);
  TORCH_CHECK(
      state.fault.kind != Fault::kVanishes || state.operators < state.fault.after,
      "fake: device ", int(device), " has fallen off the bus");
  return state;
}

// -------------------------------------------------------------------------------------------------- simulated streams

// Queue an operator: the device is busy for longer, the caller goes on.
void enqueue(DeviceIndex device) {
  if (in_fallback) return;
  std::lock_guard<std::recursive_mutex> guard(mutex);
  auto& state = used(device);
  state.operators++;
  state.busy_until = std::max(Clock::now(), state.busy_until) + configuration.latency;
}

void wait_until_idle(DeviceIndex device) {
  if (in_fallback) return;
  Clock::time_point until;
  {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    until = used(device).busy_until;
  }
  std::this_thread::sleep_until(until);
}

void synchronize(DeviceIndex device) {
  Fault fault;
  {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    auto& state = used(device);
    if (state.synchronizations++ >= state.fault.after) fault = state.fault;
  }
  TORCH_CHECK(fault.kind != Fault::kSynchronizeRaises, "fake: an illegal memory access was encountered");
  while (fault.kind == Fault::kSynchronizeHangs) std::this_thread::sleep_for(std::chrono::seconds(1));
  wait_until_idle(device);
}

// ------------------------------------------------------------------------------------------------------------- memory

struct Block {
  DeviceIndex device;
  void* memory;
  int64_t requested, size;
};

void release_cached(DeviceState& state) {
  for (const auto& [size, memory] : state.cached) {
    std::free(memory);
    state.reserved -= size;
  }
  state.cached.clear();
}

void free_block(void* context) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  auto* block = static_cast<Block*>(context);
  auto& state = states[block->device];
  state.allocated -= block->requested;
  state.cached.emplace(block->size, block->memory);
  delete block;
}

// A cached block that wastes at most an eighth, or a new one. Over the limit, cached blocks are released first.
Block* allocate_block(DeviceIndex device, int64_t bytes) {
  auto& state = used(device);
  const int64_t requested = std::max<int64_t>(1, (bytes + kAlignment - 1) / kAlignment) * kAlignment;
  auto cached = state.cached.lower_bound(requested);
  if (cached != state.cached.end() && cached->first <= requested + requested / 8) {
    auto* block = new Block{device, cached->second, requested, cached->first};
    state.cached.erase(cached);
    return block;
  }
  if (state.reserved + requested > state.limit && !state.cached.empty()) {
    state.retries++;
    release_cached(state);
  }
  if (state.reserved + requested > state.limit) {
    state.ooms++;
    TORCH_CHECK_WITH(
        OutOfMemoryError, false, "fake out of memory. Tried to allocate ", requested, " bytes of device ", int(device),
        ", which has ", state.limit, " bytes, ", state.allocated, " of them allocated");
  }
  void* memory = nullptr;
  TORCH_CHECK(posix_memalign(&memory, kAlignment, requested) == 0, "fake: the host has no memory left");
  state.reserved += requested;
  state.peak_reserved = std::max(state.peak_reserved, state.reserved);
  return new Block{device, memory, requested, requested};
}

struct Allocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    const Device device(kFake, current_device);
    if (bytes == 0) return {nullptr, nullptr, &free_block, device};
    auto* block = allocate_block(device.index(), static_cast<int64_t>(bytes));
    auto& state = states[device.index()];
    state.allocated += block->requested;
    state.peak_allocated = std::max(state.peak_allocated, state.allocated);
    return {block->memory, block, &free_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    for (auto& state : states) release_cached(state);
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    const auto& state = with_memory_figures(device);
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].current = state.allocated;
    stats.allocated_bytes[0].peak = state.peak_allocated;
    stats.reserved_bytes[0].current = state.reserved;
    stats.reserved_bytes[0].peak = state.peak_reserved;
    stats.num_alloc_retries = state.retries;
    stats.num_ooms = state.ooms;
    return stats;
  }
  void resetAccumulatedStats(DeviceIndex device) override {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    states[device].retries = states[device].ooms = 0;
  }
  void resetPeakStats(DeviceIndex device) override {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    auto& state = with_memory_figures(device);
    state.peak_allocated = state.allocated;
    state.peak_reserved = state.reserved;
  }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex device) override {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    const int64_t total = configured().memory_bytes;
    return {total - with_memory_figures(device).reserved, total};
  }

 private:
  static DeviceState& with_memory_figures(DeviceIndex device) {
    auto& state = opened(device);
    TORCH_CHECK_NOT_IMPLEMENTED(
        state.fault.kind != Fault::kNoMemoryFigures, "fake: device ", int(device), " counts no memory");
    return state;
  }
};

Allocator allocator;
REGISTER_ALLOCATOR(kFake, &allocator);

// Pinned memory of the host is ordinary memory whose addresses are known.
std::set<const void*> pinned;

void free_pinned(void* memory) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  pinned.erase(memory);
  std::free(memory);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    void* memory = nullptr;
    TORCH_CHECK(posix_memalign(&memory, kAlignment, std::max<size_t>(bytes, 1)) == 0, "fake: no pinned memory left");
    pinned.insert(memory);
    return {memory, memory, &free_pinned, Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};

PinnedAllocator pinned_allocator;

// ------------------------------------------------------------------------------------------- devices, streams, events

// One stream for each device, so an event is the time at which the device will have finished what is queued now.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kFake; }
  Device exchangeDevice(Device device) const override {
    const Device before = getDevice();
    setDevice(device);
    return before;
  }
  Device getDevice() const override { return Device(kFake, current_device); }
  void setDevice(Device device) const override {
    TORCH_CHECK(device.index() < deviceCount(), "fake: there is no device ", int(device.index()));
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.index() >= 0) current_device = device.index();
  }
  c10::Stream getStream(Device device) const override {
    const auto index = device.index() < 0 ? current_device : device.index();
    std::lock_guard<std::recursive_mutex> guard(mutex);
    opened(index);
    return c10::Stream(c10::Stream::DEFAULT, Device(kFake, index));
  }
  c10::Stream getDefaultStream(Device device) const override { return getStream(device); }
  c10::Stream getNewStream(Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return getStream(stream.device()); }
  DeviceIndex deviceCount() const noexcept override { return static_cast<DeviceIndex>(configured().devices); }
#if __has_include(<c10/core/DeviceCapability.h>)
  c10::DeviceCapability getDeviceCapability(Device) const override { return c10::DeviceCapability(); }
#endif
  bool queryStream(const c10::Stream& stream) const override {
    return states[stream.device_index()].busy_until <= Clock::now();
  }
  void synchronizeStream(const c10::Stream& stream) const override { synchronize(stream.device_index()); }
  void synchronizeDevice(const DeviceIndex device) const override { synchronize(device); }
  void record(void** event, const c10::Stream& stream, const DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr) *event = new Clock::time_point();
    std::lock_guard<std::recursive_mutex> guard(mutex);
    *static_cast<Clock::time_point*>(*event) = std::max(Clock::now(), opened(stream.device_index()).busy_until);
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void* event) const override {
    return event == nullptr || *static_cast<Clock::time_point*>(event) <= Clock::now();
  }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) std::this_thread::sleep_until(*static_cast<Clock::time_point*>(event));
  }
  double elapsedTime(void* begin, void* end, const DeviceIndex) const override {
    const auto elapsed = *static_cast<Clock::time_point*>(end) - *static_cast<Clock::time_point*>(begin);
    return std::chrono::duration<double, std::milli>(elapsed).count();
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override {
    delete static_cast<Clock::time_point*>(event);
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return configured().devices > 0; }
  bool hasPrimaryContext(DeviceIndex device) const override { return states[device].initialized; }
  bool isPinnedPtr(const void* memory) const override {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    return pinned.count(memory) > 0;
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
};
const int registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return 0;
}();

// ---------------------------------------------------------------------------------------------------------- operators

// The same memory as a tensor of the host.
Tensor on_host(const Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

Tensor empty_strided(
    IntArrayRef size, IntArrayRef stride, std::optional<ScalarType> type, std::optional<at::Layout>,
    std::optional<Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(
      size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type.value_or(at::kFloat));
}

Tensor empty(
    IntArrayRef size, std::optional<ScalarType> type, std::optional<at::Layout>, std::optional<Device> device,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(
      size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type.value_or(at::kFloat), format);
}

// A result of the host in memory of the device.
Tensor on_device(const Tensor& result, Device device, ScalarType type) {
  if (!result.defined()) return result;
  Tensor copy = empty_strided(result.sizes(), result.strides(), type, std::nullopt, device, std::nullopt);
  on_host(copy).copy_(result);
  return copy;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  const Device device = from.is_cpu() ? to.device() : from.device();
  enqueue(device.index());
  if (to.is_cpu() && !non_blocking) wait_until_idle(device.index());
  on_host(to).copy_(on_host(from));
  return to;
}

const Tensor& resize_(const Tensor& tensor, IntArrayRef size, std::optional<at::MemoryFormat>) {
  const c10::DeviceGuard guard(tensor.device());
  const int64_t bytes = (tensor.storage_offset() + c10::multiply_integers(size)) * int64_t(tensor.itemsize());
  auto storage = tensor.storage();
  if (int64_t(storage.nbytes()) < bytes) {
    auto larger = allocator.allocate(bytes);
    if (storage.nbytes() > 0) std::memcpy(larger.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr(std::move(larger));
    storage.set_nbytes(bytes);
  }
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return tensor;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

Scalar item(const Tensor& tensor) {
  wait_until_idle(tensor.device().index());
  return on_host(tensor).item();
}

// Convolutions of half precision take minutes on a cpu without instructions for them.
Tensor in_float(const Tensor& tensor) {
  const bool half = tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
  return half ? on_host(tensor).to(at::kFloat) : on_host(tensor);
}

Tensor convolution(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride,
    IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups) {
  enqueue(input.device().index());
  std::optional<Tensor> host_bias;
  if (bias.has_value() && bias->defined()) host_bias = in_float(*bias);
  const auto result = at::convolution(
      in_float(input), in_float(weight), host_bias, stride, padding, dilation, transposed, output_padding, groups);
  return on_device(result, input.device(), input.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& input, const Tensor& weight, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  enqueue(input.device().index());
  const std::vector<int64_t> bias_size = {transposed ? weight.size(1) * groups : weight.size(0)};
  const auto [to_input, to_weight, to_bias] = at::convolution_backward(
      in_float(gradient), in_float(input), in_float(weight), IntArrayRef(bias_size), stride, padding, dilation,
      transposed, output_padding, groups, mask);
  const auto device = input.device();
  const auto type = input.scalar_type();
  return {on_device(to_input, device, type), on_device(to_weight, device, type), on_device(to_bias, device, type)};
}

// The device of an operator's first tensor; the current one without.
DeviceIndex device_of(const torch::jit::Stack& arguments) {
  for (const auto& argument : arguments) {
    if (argument.isTensor() && argument.toTensor().defined() && argument.toTensor().device().type() == kFake) {
      return argument.toTensor().device().index();
    }
    if (argument.isTensorList()) {
      for (const Tensor& tensor : argument.toTensorVector()) {
        if (tensor.device().type() == kFake) return tensor.device().index();
      }
    }
  }
  return current_device;
}

void fallback(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  enqueue(device_of(*stack));
  const struct Within {
    Within() { in_fallback = true; }
    ~Within() { in_fallback = false; }
  } within;
  at::native::cpu_fallback(operation, stack);
}

Tensor as_strided(const Tensor& tensor, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(tensor, size, stride, offset);
}
Tensor view(const Tensor& tensor, c10::SymIntArrayRef size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}
Tensor reshape_alias(const Tensor& tensor, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

// Attention is computed from its parts.
int64_t attention_backend(
    const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool, std::optional<double>,
    bool) {
  return static_cast<int64_t>(at::SDPBackend::math);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("resize_", &resize_);
  library.impl("_local_scalar_dense", &item);
  library.impl("as_strided", &as_strided);
  library.impl("view", &view);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("convolution_overrideable", &convolution);
  library.impl("convolution_backward_overrideable", &convolution_backward);
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) { library.fallback(torch::CppFunction::makeFallthrough()); }

// The operators of today's networks among those that CUDA computes in half precision, or in float32.
#define LOWER_PRECISION(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  LOWER_PRECISION(conv2d)
  LOWER_PRECISION(convolution)
  LOWER_PRECISION(conv_transpose2d, input)
  LOWER_PRECISION(linear)
  LOWER_PRECISION(matmul)
  LOWER_PRECISION(mm)
  LOWER_PRECISION(bmm)
  LOWER_PRECISION(addmm)
  LOWER_PRECISION(baddbmm)
  LOWER_PRECISION(scaled_dot_product_attention)
  FLOAT32(exp)
  FLOAT32(log)
  FLOAT32(mse_loss)
  FLOAT32(layer_norm)
  FLOAT32(group_norm)
}

}  // namespace

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &attention_backend)
}  // namespace at::native

// For the Python side of the backend, and for tests.
TORCH_LIBRARY(fake_accelerator, library) {
  library.def("limit(int device, float share) -> ()", [](int64_t device, double share) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    auto& state = opened(static_cast<DeviceIndex>(device));
    state.limit = static_cast<int64_t>(share * double(configuration.memory_bytes));
  });
  library.def("counts(int device) -> int[]", [](int64_t device) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    return std::vector<int64_t>{states[device].operators, states[device].synchronizations, states[device].limit};
  });
  library.def("device_count() -> int", []() { return int64_t(configured().devices); });
  library.def("is_initialized() -> bool", []() { return initialized_by == getpid(); });
}
