// libpaired-device.so: an out-of-tree ggml backend (GGML_BACKEND_PATH names it) with several devices, PAIRED0, PAIRED1, ..., that
// each are this machine's CPU and look like GPUs: each computes on a thread of its own, and who starts a graph does not wait for it; the host
// cannot reach their memory.
//
// GGML_PAIRED_COUNT: how many there are; 2 without it. GGML_PAIRED_LOG: a file to which each graph writes a byte: '+' when graphs of all devices ran at
// the same time with it, for which it waits up to GGML_PAIRED_WAIT_MS, else '-'. GGML_PAIRED_FAILS: what who waits for a graph sees: "throws" an
// exception, as of Vulkan's, or "aborts", as CUDA's does.

#include "ggml-backend-impl.h"
#include "ggml.h"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <fcntl.h>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>

extern "C" {
GGML_BACKEND_API ggml_backend_reg_t ggml_backend_init(void);
}

namespace {

constexpr int most_devices = 8;

int number_of(const char * variable, int otherwise) {
    const char * text = std::getenv(variable);
    return text == nullptr ? otherwise : std::atoi(text);
}

ggml_backend_dev_t cpu() {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

struct paired_device {
    std::string              name;
    ggml_backend_device      device;
    ggml_backend_buffer_type memory;
};

paired_device g_devices[most_devices];
int           g_count;

paired_device & paired(ggml_backend_dev_t device) {
    return *static_cast<paired_device *>(device->context);
}

// ---- who computes at the same time ------------------------------------------------------------------

// Opened before a server shuts itself in.
int g_log = -1, g_wait_ms = 0;

std::string g_fails;

std::mutex              g_mutex;
std::condition_variable g_met;
int                     g_waiting = 0;
uint64_t                g_meetings = 0;

void meet() {
    if (g_log < 0) {
        return;
    }
    std::unique_lock<std::mutex> lock(g_mutex);
    bool all = true;
    if (++g_waiting == g_count) {
        g_waiting = 0;
        g_meetings++;
        g_met.notify_all();
    } else {
        const uint64_t before = g_meetings;
        all = g_met.wait_for(lock, std::chrono::milliseconds(g_wait_ms), [&] { return g_meetings != before; });
        if (!all) {
            g_waiting--;
        }
    }
    const char mark = all ? '+' : '-';
    if (write(g_log, &mark, 1) != 1) {
        std::abort();
    }
}

// ---- computing --------------------------------------------------------------------------------------

struct backend_state {
    ggml_backend_t cpu;
    std::thread    thread;
};

backend_state & state_of(ggml_backend_t backend) {
    return *static_cast<backend_state *>(backend->context);
}

void synchronize(ggml_backend_t backend) {
    if (state_of(backend).thread.joinable()) {
        state_of(backend).thread.join();
    }
}

void synchronize_or_fail(ggml_backend_t backend) {
    const bool has_computed = state_of(backend).thread.joinable();
    synchronize(backend);
    if (has_computed && g_fails == "throws") {
        throw std::runtime_error("the device is lost");
    }
    if (has_computed && g_fails == "aborts") {
        GGML_ABORT("the device is lost");
    }
}

ggml_status compute(ggml_backend_t backend, ggml_cgraph * graph) {
    synchronize(backend);
    state_of(backend).thread = std::thread([backend, graph]() {
        meet();
        ggml_backend_graph_compute(state_of(backend).cpu, graph);
    });
    return GGML_STATUS_SUCCESS;
}

void free_backend(ggml_backend_t backend) {
    synchronize(backend);
    ggml_backend_free(state_of(backend).cpu);
    delete &state_of(backend);
    delete backend;
}

ggml_backend_t init_backend(ggml_backend_dev_t device, const char * params) {
    auto * backend = new ggml_backend{};
    auto * state   = new backend_state{ggml_backend_dev_init(cpu(), params), {}};
    // Several with the usual four would be in each other's way.
    const auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu()), "ggml_backend_set_n_threads"));
    set_threads(state->cpu, 1);
    backend->guid    = state->cpu->guid;
    backend->device  = device;
    backend->context = state;
    backend->iface.get_name      = [](ggml_backend_t self) { return paired(self->device).name.c_str(); };
    backend->iface.free          = free_backend;
    backend->iface.synchronize   = synchronize_or_fail;
    backend->iface.graph_compute = compute;
    return backend;
}

// ---- the devices ------------------------------------------------------------------------------------

void properties(ggml_backend_dev_t device, ggml_backend_dev_props * out) {
    cpu()->iface.get_props(cpu(), out);
    out->name       = paired(device).name.c_str();
    out->type       = GGML_BACKEND_DEVICE_TYPE_GPU;
    out->caps.async = true;
}

void make(int index, ggml_backend_reg_t reg) {
    paired_device & own = g_devices[index];
    own.name   = "PAIRED" + std::to_string(index);
    own.memory = *ggml_backend_cpu_buffer_type();
    own.memory.device         = &own.device;
    own.memory.iface.get_name = [](ggml_backend_buffer_type_t type) { return paired(type->device).name.c_str(); };
    own.memory.iface.is_host  = [](ggml_backend_buffer_type_t) { return false; };
    own.device = *cpu();
    own.device.reg     = reg;
    own.device.context = &own;
    own.device.iface.get_name        = [](ggml_backend_dev_t device) { return paired(device).name.c_str(); };
    own.device.iface.get_description = own.device.iface.get_name;
    own.device.iface.get_memory      = [](ggml_backend_dev_t, size_t * free, size_t * total) { ggml_backend_dev_memory(cpu(), free, total); };
    own.device.iface.get_type        = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    own.device.iface.get_props       = properties;
    own.device.iface.init_backend    = init_backend;
    own.device.iface.get_buffer_type = [](ggml_backend_dev_t device) { return &paired(device).memory; };
    own.device.iface.supports_op     = [](ggml_backend_dev_t, const ggml_tensor * op) { return ggml_backend_dev_supports_op(cpu(), op); };
    own.device.iface.supports_buft   = [](ggml_backend_dev_t device, ggml_backend_buffer_type_t type) { return type == &paired(device).memory; };
}

} // namespace

ggml_backend_reg_t ggml_backend_init(void) {
    static ggml_backend_reg reg = [] {
        ggml_backend_reg made{};
        made.api_version            = GGML_BACKEND_API_VERSION;
        made.iface.get_name         = [](ggml_backend_reg_t) { return "PAIRED"; };
        made.iface.get_device_count = [](ggml_backend_reg_t) { return size_t(g_count); };
        made.iface.get_device       = [](ggml_backend_reg_t, size_t index) { return &g_devices[index].device; };
        made.iface.get_proc_address = [](ggml_backend_reg_t, const char *) -> void * { return nullptr; };
        return made;
    }();
    g_count   = number_of("GGML_PAIRED_COUNT", 2);
    g_wait_ms = number_of("GGML_PAIRED_WAIT_MS", 2000);
    if (g_count < 1 || g_count > most_devices) {
        return nullptr;
    }
    if (const char * fails = std::getenv("GGML_PAIRED_FAILS")) {
        g_fails = fails;
    }
    if (const char * path = std::getenv("GGML_PAIRED_LOG")) {
        g_log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    }
    for (int index = 0; index < g_count; index++) {
        make(index, &reg);
    }
    return &reg;
}
