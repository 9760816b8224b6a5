// Linked into test-backend-ops, whose reference runs with ggml's default of four threads: on two
// cores they wait for each other a scheduler's time slice at every op, 24 ms for a case of 1 ms.
// This definition takes the place of libggml's for the executable's calls.

#include "ggml-backend.h"

ggml_backend_t ggml_backend_init_by_type(enum ggml_backend_dev_type type, const char * params) {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(type);
    if (device == nullptr) {
        return nullptr;
    }
    ggml_backend_t backend = ggml_backend_dev_init(device, params);
    auto set_n_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"));
    if (backend != nullptr && set_n_threads != nullptr) {
        set_n_threads(backend, 1);
    }
    return backend;
}
