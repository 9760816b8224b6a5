// Linked into upstream programs that expect statically linked backends (test-llama-archs): the
// prebuilt libraries have theirs in files of their own, which somebody must load before main.

#include "ggml-backend.h"

namespace {
struct load_backends {
    load_backends() { ggml_backend_load_all(); }
} const load_backends_at_start;
} // namespace
