import { dlopen, FFIType } from "bun:ffi"
import { expect, test } from "bun:test"
import { GGML_TYPES } from "@ggml-rpc/gguf"
import { librarySet } from "@ggml-rpc/native/bindings"

test("the types of files are ggml's own", () => {
  const { symbols } = dlopen(librarySet().ggmlBase, {
    ggml_type_name: { args: ["i32"], returns: "cstring" },
    ggml_type_size: { args: ["i32"], returns: FFIType.u64_fast },
    ggml_blck_size: { args: ["i32"], returns: FFIType.i64_fast },
  })
  const count = GGML_TYPES.at(-1)!.id + 1
  const types = Array.from({ length: count }, (_, id) => ({
    id,
    name: String(symbols.ggml_type_name(id)).toUpperCase(),
    blockSize: Number(symbols.ggml_blck_size(id)),
    typeSize: Number(symbols.ggml_type_size(id)),
  }))
  // Removed types have no size.
  expect(types.filter(({ typeSize }) => typeSize > 0)).toEqual([...GGML_TYPES])
})
