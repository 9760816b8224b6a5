// llama.cpp's tools print through a thread of their own, and what that has not written when main returns is lost: the end of a
// text, on a busy machine. This waits for it.

#include "log.h"

#include <cstdlib>

namespace {

struct flush_at_exit {
    flush_at_exit() {
        std::atexit([] { common_log_flush(common_log_main()); });
    }
} g_flush_at_exit;

} // namespace
