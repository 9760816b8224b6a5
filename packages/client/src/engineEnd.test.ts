import { describe, expect, test } from "bun:test"
import { errorOfEnd } from "./engineEnd.ts"

const text = { text: "a", addSpecial: true, parseSpecial: true }

const end = (...lastWords: ReadonlyArray<string>) =>
  errorOfEnd({ exitCode: 134, signal: null, lastWords: [...lastWords] })

test("an operation that a server lacks is named with the server and its version", () => {
  const error = end(
    "ggml abort: ggml-backend.cpp:941: pre-allocated tensor (cache_k_l0 (view)) in a buffer (RPC0[[fd00::3]:50052, protocol 3.0.0]) that cannot run the operation (SET_ROWS)",
  )
  expect(error).toMatchObject({
    _tag: "UnsupportedOpError",
    endpoint: "[fd00::3]:50052",
    op: "SET_ROWS",
    version: "3.0.0",
  })
})

test("any other end is told with its last words", () => {
  const local =
    "ggml abort: pre-allocated tensor (x) in a buffer (CUDA0) that cannot run the operation (SET_ROWS)"
  expect(end(local)).toMatchObject({
    ...{ _tag: "EngineEndedError", reason: "other" },
    detail: `exit code 134; it said: ${local}`,
  })
  expect(errorOfEnd({ exitCode: null, signal: "SIGSEGV", lastWords: [] })).toMatchObject({
    ...{ reason: "other", detail: "signal SIGSEGV" },
  })
})

test("a kill names its likely reason", () => {
  const error = errorOfEnd({ exitCode: null, signal: "SIGKILL", lastWords: [] })
  expect(error).toMatchObject({ _tag: "EngineEndedError", reason: "killed" })
  expect(error.message).toContain("memory runs out")
})

describe("a condition of llama.cpp's that does not hold", () => {
  const words =
    "ggml abort: /home/somebody/llama.cpp/src/llama-model.cpp:1260: GGML_ASSERT(n_layer > 0) failed"
  const exit = { exitCode: 134, signal: null, lastWords: ["a line", words] }

  test("is told with the file that was read, without where it was built", () => {
    const error = errorOfEnd(exit, { type: "tokenize", path: "/m.gguf", ...text })
    expect(error).toMatchObject({
      ...{ _tag: "EngineEndedError", reason: "gave-up", path: "/m.gguf" },
      detail: "GGML_ASSERT(n_layer > 0) failed (llama-model.cpp:1260)",
    })
    expect(error.message).toContain("gave up on the model /m.gguf: GGML_ASSERT(n_layer > 0)")
  })

  test("of tensors that were to be cut, is told with what to do instead", () => {
    const placement = { devices: [0, 1], unitCounts: [5, 5], shares: [0.5, 0.5] }
    const error = errorOfEnd(exit, {
      ...{ type: "load", path: "/m.gguf", placement, model: { mmap: true } },
      context: {} as never,
    })
    expect(error).toMatchObject({ reason: "cannot-cut", path: "/m.gguf" })
    expect(error.message).toContain("Split layers (--split-mode layer)")
  })

  test("of tensors that are cut, is told so of what was computed, too", () => {
    const lastWords = [
      "ggml abort: /build/ggml/src/ggml-backend-meta.cpp:543: GGML_ASSERT(axis != 0) failed",
    ]
    const error = errorOfEnd({ ...exit, lastWords }, { type: "tokenize", ...text })
    expect(error).toMatchObject({ reason: "cannot-cut" })
    expect(error.message).toStartWith("llama.cpp cannot cut the tensors of this model over")
  })

  test("is told of what was computed, too", () => {
    const error = errorOfEnd(exit, { type: "tokenize", ...text })
    expect(error).not.toHaveProperty("path")
    expect(error.message).toContain("gave up on what it computed: GGML_ASSERT(n_layer > 0)")
  })
})
