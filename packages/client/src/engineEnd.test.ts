import { expect, test } from "bun:test"
import { errorOfEnd } from "./engineEnd.ts"

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
    _tag: "EngineEndedError",
    detail: `exit code 134; it said: ${local}`,
  })
  expect(errorOfEnd({ exitCode: null, signal: "SIGKILL", lastWords: [] })).toMatchObject({
    detail: "signal SIGKILL",
  })
})
