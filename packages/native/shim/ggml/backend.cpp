// Devices and backends of this machine.

#include "abort_flag.h"
#include "api.h"
#include "ggml-backend.h"
#include "ggml-impl.h"
#include "index_checks.h"

#include <exception>

API void gs_load_backends(const char * folder) {
    ggml_backend_load_all_from_path(folder);
}

API void gs_device_memory(ggml_backend_dev_t device, double * out) {
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    out[0] = double(free);
    out[1] = double(total);
}

// Which one of the machine it is, such as 0000:c1:00.0; "" when its backend does not say.
API const char * gs_device_id(ggml_backend_dev_t device) {
    ggml_backend_dev_props props{};
    ggml_backend_dev_get_props(device, &props);
    return props.device_id == nullptr ? "" : props.device_id;
}

// Whether graphs that were started go on while this process does something else.
API int gs_device_is_async(ggml_backend_dev_t device) {
    ggml_backend_dev_props props{};
    ggml_backend_dev_get_props(device, &props);
    return props.caps.async ? 1 : 0;
}

// Waits for the graph that was started last (gs_graph_compute). 0, or -1 where the backend throws, as Vulkan's does when its device is
// lost; what it threw is in ggml's log.
API int gs_backend_synchronize(ggml_backend_t backend) {
    try {
        ggml_backend_synchronize(backend);
        return 0;
    } catch (const std::exception & error) {
        GGML_LOG_ERROR("%s: %s\n", ggml_backend_name(backend), error.what());
    } catch (...) {
        // Of no known type: there is nothing to say of it.
    }
    return -1;
}

API int gs_backend_set_threads(ggml_backend_t backend, int threads) {
    ggml_backend_dev_t device = ggml_backend_get_device(backend);
    ggml_backend_reg_t reg = device ? ggml_backend_dev_backend_reg(device) : nullptr;
    if (reg == nullptr) {
        return 0;
    }
    auto set = reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"));
    if (set == nullptr) {
        return 0;
    }
    set(backend, threads);
    return 1;
}

namespace {

bool stop_requested(void * flag) {
    return g_bad_index.found.load(std::memory_order_relaxed) || abort_requested(flag);
}

} // namespace

// Lets the flag at this address (see io_abort_flag) stop a running graph, and an index that is out of its range, where the
// backend can be stopped.
API int gs_backend_set_abort_flag(ggml_backend_t backend, void * flag) {
    ggml_backend_dev_t device = ggml_backend_get_device(backend);
    ggml_backend_reg_t reg = device ? ggml_backend_dev_backend_reg(device) : nullptr;
    if (reg == nullptr) {
        return 0;
    }
    auto set = reinterpret_cast<ggml_backend_set_abort_callback_t>(ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_abort_callback"));
    if (set == nullptr) {
        return 0;
    }
    set(backend, stop_requested, flag);
    return 1;
}
