// librefusing-device.so: an out-of-tree ggml backend (GGML_BACKEND_PATH names it) with one device, REFUSING, that is this
// machine's CPU without some operations: what a GPU without all kernels is to a program that asks before it computes. A graph
// that has such an operation all the same ends the process, as on a GPU. An accelerator by type, so that nothing is computed
// before a client comes.
//
// GGML_REFUSED_OPS: names as ggml_op_desc has them, such as ROPE,SILU.

#include "ggml-backend-impl.h"
#include "ggml.h"

#include <cstdlib>
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

static ggml_status (*cpu_compute)(ggml_backend_t, ggml_cgraph *);

static ggml_status compute(ggml_backend_t backend, ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        GGML_ASSERT(supports_op(nullptr, ggml_graph_node(graph, i)));
    }
    return cpu_compute(backend, graph);
}

static ggml_backend_t init_backend(ggml_backend_dev_t device, const char * params) {
    ggml_backend_t backend = ggml_backend_dev_init(cpu(), params);
    backend->device             = device;
    cpu_compute                 = backend->iface.graph_compute;
    backend->iface.graph_compute = compute;
    return backend;
}

static ggml_backend_dev_t get_device(ggml_backend_reg_t reg, size_t) {
    static ggml_backend_device device = *cpu();
    device.reg                 = reg;
    device.iface.get_name      = [](ggml_backend_dev_t) { return "REFUSING"; };
    device.iface.get_type      = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_ACCEL; };
    device.iface.init_backend  = init_backend;
    device.iface.supports_op   = supports_op;
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
