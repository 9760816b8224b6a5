// librpc-device.so: an out-of-tree ggml backend (GGML_BACKEND_PATH names it) that adds the devices of
// RPC servers to any program that loads all backends. test-backend-ops and test-llama-archs have no
// option for RPC servers, so this is how their devices get in.
//
// GGML_RPC_DEVICE_ENDPOINTS: host:port[,host:port...]. The devices are RPC0, RPC1, ... in that order.

#include "ggml-backend-impl.h"
#include "ggml-rpc.h"

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

static const char * const endpoints_variable = "GGML_RPC_DEVICE_ENDPOINTS";

extern "C" {
GGML_BACKEND_API ggml_backend_reg_t ggml_backend_init(void);
}

ggml_backend_reg_t ggml_backend_init(void) {
    const char * endpoints = std::getenv(endpoints_variable);
    std::istringstream stream(endpoints != nullptr ? endpoints : "");
    std::string endpoint;
    ggml_backend_reg_t last = nullptr;
    while (std::getline(stream, endpoint, ',')) {
        ggml_backend_reg_t reg = ggml_backend_rpc_add_server(endpoint.c_str());
        if (reg == nullptr) {
            // A test run that silently lacks its device would pass: end it instead.
            std::fprintf(stderr, "rpc-device: %s offers no device\n", endpoint.c_str());
            std::exit(3);
        }
        // The loader registers what this function returns; the others are ours to register.
        if (last != nullptr) {
            ggml_backend_register(last);
        }
        last = reg;
    }
    if (last == nullptr) {
        std::fprintf(stderr, "rpc-device: %s names no server\n", endpoints_variable);
        std::exit(3);
    }
    return last;
}
