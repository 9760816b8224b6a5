// librefusing-device.so: an out-of-tree ggml backend (GGML_BACKEND_PATH names it) with one device, REFUSING, that is this
// machine's CPU and looks like a GPU.
//
// It lacks some operations: a graph that has one all the same ends the process. Its memory is as that of Vulkan, the strangest
// of ggml v0.5.0: the host cannot reach it, all buffers begin at the same address, and what is new in them is not zero.
//
// GGML_REFUSED_OPS: names as ggml_op_desc has them, such as ROPE,SILU.

#include "ggml-backend-impl.h"
#include "ggml.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <unordered_set>

extern "C" {
GGML_BACKEND_API ggml_backend_reg_t ggml_backend_init(void);
}

static ggml_backend_dev_t cpu() {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

static const std::unordered_set<std::string> & refused() {
    static const std::unordered_set<std::string> names = [] {
        std::unordered_set<std::string> found;
        const char * text = std::getenv("GGML_REFUSED_OPS");
        std::istringstream stream(text != nullptr ? text : "");
        for (std::string name; std::getline(stream, name, ',');) {
            found.insert(name);
        }
        return found;
    }();
    return names;
}

static bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    return refused().count(ggml_op_desc(op)) == 0 && ggml_backend_dev_supports_op(cpu(), op);
}

// ---- memory -----------------------------------------------------------------------------------------

// Where every buffer begins, as ggml-vulkan's vk_ptr_base.
static char * const first_address = reinterpret_cast<char *>(uintptr_t(0x1000));

constexpr int other_programs_byte = 0xcd;

static char * memory_of(ggml_backend_buffer_t buffer) {
    return static_cast<char *>(buffer->context);
}

static char * memory_of(const ggml_tensor * tensor) {
    return memory_of(tensor->buffer) + (static_cast<char *>(tensor->data) - first_address);
}

static void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    // Words, of which one byte is the value: ggml_backend_vk_buffer_clear.
    for (size_t i = 0; i < buffer->size; i++) {
        memory_of(buffer)[i] = i % 4 == 0 ? char(value) : 0;
    }
}

static const ggml_backend_buffer_i memory_interface = {
    /* .free_buffer   = */ [](ggml_backend_buffer_t buffer) { std::free(buffer->context); },
    /* .get_base      = */ [](ggml_backend_buffer_t) -> void * { return first_address; },
    /* .init_tensor   = */ nullptr,
    /* .memset_tensor = */ nullptr,
    /* .set_tensor    = */
    [](ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
        std::memcpy(memory_of(tensor) + offset, data, size);
    },
    /* .get_tensor    = */
    [](ggml_backend_buffer_t, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
        std::memcpy(data, memory_of(tensor) + offset, size);
    },
    /* .set_tensor_2d = */ nullptr,
    /* .get_tensor_2d = */ nullptr,
    /* .cpy_tensor    = */ nullptr,
    /* .clear         = */ clear,
    /* .reset         = */ nullptr,
};

static ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
    constexpr size_t alignment = 64;
    void * memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (memory == nullptr) {
        return nullptr;
    }
    std::memset(memory, other_programs_byte, size);
    return ggml_backend_buffer_init(type, memory_interface, memory, size);
}

static ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t device) {
    static ggml_backend_buffer_type type = *ggml_backend_cpu_buffer_type();
    type.device             = device;
    type.iface.get_name     = [](ggml_backend_buffer_type_t) { return "REFUSING"; };
    type.iface.alloc_buffer = allocate;
    type.iface.is_host      = [](ggml_backend_buffer_type_t) { return false; };
    return &type;
}

// ---- computing --------------------------------------------------------------------------------------

static ggml_status (*cpu_compute)(ggml_backend_t, ggml_cgraph *);

// The tensors of a graph that lie in memory of this device.
static std::unordered_set<ggml_tensor *> tensors_of(ggml_cgraph * graph) {
    std::unordered_set<ggml_tensor *> found;
    const auto add = [&](ggml_tensor * tensor) {
        if (tensor != nullptr && tensor->buffer != nullptr && tensor->data != nullptr) {
            found.insert(tensor);
        }
    };
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        GGML_ASSERT(supports_op(nullptr, node));
        add(node);
        for (ggml_tensor * source : node->src) {
            add(source);
        }
    }
    return found;
}

// For the CPU's kernels, tensors lie where they really do.
static ggml_status compute(ggml_backend_t backend, ggml_cgraph * graph) {
    const auto tensors = tensors_of(graph);
    for (ggml_tensor * tensor : tensors) {
        tensor->data = memory_of(tensor);
    }
    const ggml_status status = cpu_compute(backend, graph);
    for (ggml_tensor * tensor : tensors) {
        tensor->data = first_address + (static_cast<char *>(tensor->data) - memory_of(tensor->buffer));
    }
    return status;
}

// ---- the device -------------------------------------------------------------------------------------

static ggml_backend_t init_backend(ggml_backend_dev_t device, const char * params) {
    ggml_backend_t backend = ggml_backend_dev_init(cpu(), params);
    backend->device             = device;
    cpu_compute                 = backend->iface.graph_compute;
    backend->iface.graph_compute = compute;
    return backend;
}

static ggml_backend_dev_t get_device(ggml_backend_reg_t reg, size_t) {
    static ggml_backend_device device = *cpu();
    device.reg                   = reg;
    device.iface.get_name        = [](ggml_backend_dev_t) { return "REFUSING"; };
    device.iface.get_type        = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    device.iface.init_backend    = init_backend;
    device.iface.get_buffer_type = buffer_type;
    device.iface.supports_op     = supports_op;
    device.iface.supports_buft   = [](ggml_backend_dev_t, ggml_backend_buffer_type_t type) { return type == buffer_type(&device); };
    return &device;
}

ggml_backend_reg_t ggml_backend_init(void) {
    static ggml_backend_reg reg = [] {
        ggml_backend_reg made{};
        made.api_version             = GGML_BACKEND_API_VERSION;
        made.iface.get_name          = [](ggml_backend_reg_t) { return "REFUSING"; };
        made.iface.get_device_count  = [](ggml_backend_reg_t) -> size_t { return 1; };
        made.iface.get_device        = get_device;
        // Threads and the abort flag are set as on the CPU.
        made.iface.get_proc_address  = [](ggml_backend_reg_t, const char * name) {
            return ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu()), name);
        };
        return made;
    }();
    return &reg;
}
