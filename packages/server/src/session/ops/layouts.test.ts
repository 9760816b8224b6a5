import { describe, expect, test } from "bun:test"
import type { RpcTensor } from "@ggml-rpc/protocol"
import { changedNode, checkNode } from "../../../test/nodeCheck.ts"
import type { ValidNode } from "../../../test/validNodes.ts"

/** The valid node of an operation, the first or a later one. */
const nodeOf = (op: string, index = 0): ValidNode => changedNode(op, index, {})

/** The refusal of a node whose tensors are changed. */
const check = (node: ValidNode, change: (tensors: RpcTensor[]) => void = () => {}): string =>
  checkNode(node, { change })

/** Replaces fields of the tensor at a position: a source, or the result at -1. */
const setFields = (tensors: RpcTensor[], position: number, fields: Partial<RpcTensor>): void => {
  const at = position < 0 ? tensors.length + position : position
  tensors[at] = { ...tensors[at]!, ...fields }
}

/** The refusal of a node of which one tensor is another: the result at -1, or a source. */
const refusal = (node: ValidNode, position: number, fields: Partial<RpcTensor>): string =>
  check(node, (tensors) => setFields(tensors, position, fields))

/** Strides that a view of 8,4,2,3 floats has. */
const dense = [4, 32, 128, 256]
const padded = {
  /** Rows with a pitch, and all that follows fits. */
  rows: [4, 48, 192, 384],
  /** Planes with a pitch. */
  planes: [4, 32, 160, 320],
  /** Elements apart. */
  elements: [8, 64, 256, 512],
  /** The first two dimensions changed places. */
  transposed: [16, 4, 128, 256],
}

describe("layouts", () => {
  test("strided: any strides will do", () => {
    for (const nb of Object.values(padded)) {
      expect(refusal(nodeOf("NORM"), 0, { nb })).toBe("")
      expect(refusal(nodeOf("NORM"), -1, { nb })).toBe("")
    }
  })

  test("rows: all strides but the first", () => {
    for (const position of [0, -1]) {
      expect(refusal(nodeOf("SQR"), position, { nb: padded.rows })).toBe("")
      expect(refusal(nodeOf("SQR"), position, { nb: padded.planes })).toBe("")
      for (const nb of [padded.elements, padded.transposed]) {
        expect(refusal(nodeOf("SQR"), position, { nb })).toContain("must have contiguous rows")
      }
    }
  })

  test("pitched: rows of all dimensions at one distance", () => {
    const clamp = nodeOf("CLAMP")
    for (const position of [0, -1]) {
      expect(refusal(clamp, position, { nb: padded.rows })).toBe("")
      const apart = "must have all rows at the distance nb[1]"
      expect(refusal(clamp, position, { nb: padded.planes })).toContain(apart)
      expect(refusal(clamp, position, { nb: [4, 32, 128, 512] })).toContain(apart)
      expect(refusal(clamp, position, { nb: padded.elements })).toContain("contiguous rows")
    }
    // A row in each plane: the kernel takes one after the other at nb[1], which nothing else is multiplied by.
    const planes = { ...clamp, result: "F32 8,1,2,3", sources: ["F32 8,1,2,3"] }
    expect(refusal(planes, 0, { nb: [4, 1 << 20, 32, 64] })).toContain("at the distance nb[1]")
    expect(refusal(planes, -1, { nb: [4, 0, 32, 64] })).toContain("at the distance nb[1]")
    const one = { ...clamp, result: "F32 8", sources: ["F32 8"] }
    expect(refusal(one, 0, { nb: [4, 1 << 20, 0, 0] })).toBe("")
  })

  test("packed and contiguous: nothing between elements", () => {
    for (const [op, position] of [
      ["DIAG_MASK_INF", 0],
      ["DIAG_MASK_INF", -1],
      ["SCALE", 0],
      ["SCALE", -1],
    ] as const) {
      for (const nb of [padded.rows, padded.planes, padded.elements]) {
        const node = { ...nodeOf(op), result: "F32 8,4,2,3", sources: ["F32 8,4,2,3"] }
        expect(refusal(node, position, { nb })).toContain("must be contiguous")
      }
    }
  })

  test("contiguous: a stride that is multiplied with 0 may be anything, where the kernel does multiply", () => {
    const planes = (op: string): ValidNode => ({
      ...nodeOf(op),
      result: "F32 8,1,8",
      sources: ["F32 8,1,8"],
    })
    const nb = [4, 4096, 32, 256]
    expect(refusal(planes("CONT"), 0, { nb })).toBe("")
    expect(refusal(planes("SCALE"), 0, { nb })).toContain(
      "must have all rows at the distance nb[1]",
    )
    const mask = { ...nodeOf("DIAG_MASK_INF"), result: "F32 8,4,1,3", sources: ["F32 8,4,1,3"] }
    const planesApart = { nb: [4, 32, 4096, 128] }
    expect(refusal(mask, -1, planesApart)).toContain("must have all planes at the distance nb[2]")
    const product = { ...nodeOf("MUL_MAT"), result: "F32 6,5", sources: ["F32 16,6", "F32 16,5"] }
    const shrinking = { nb: [4, 24, 120, 8] }
    expect(refusal(product, -1, shrinking)).toContain("strides that do not get smaller")
  })
})

describe("every tensor of a node", () => {
  test("has elements at multiples of their size, and blocks where their size allows", () => {
    const moved = (node: ValidNode, source: number, offset: number): string =>
      check(node, (tensors) => {
        setFields(tensors, source, { data: tensors[source]!.data + BigInt(offset) })
      })
    expect(moved(nodeOf("ADD"), 0, 2)).toContain("src[0] must be aligned to 4 bytes")
    expect(moved(nodeOf("ADD", 1), 0, 1)).toContain("src[0] must be aligned to 2 bytes")
    expect(moved(nodeOf("MUL_MAT", 1), 0, 2)).toContain("src[0] must be aligned to 4 bytes")
    expect(moved(nodeOf("GET_ROWS"), 1, 1)).toContain("src[1] must be aligned to 4 bytes")
    expect(moved(nodeOf("ADD"), 0, 4)).toBe("")
    expect(refusal(nodeOf("NORM"), 0, { nb: [4, 34, 136, 272] })).toContain("aligned to 4 bytes")
  })

  test("has rows that an int can count", () => {
    const sum = nodeOf("SUM")
    const ne = (...values: readonly number[]) => ({ ne: [...values], nb: [4, 0, 0, 0] })
    expect(refusal(sum, 0, ne(8, 2 ** 15, 2 ** 15, 1))).toBe("")
    expect(refusal(sum, 0, ne(8, 2 ** 15, 2 ** 15, 2))).toContain("src[0] must not have more than")
    const upscaled = refusal(nodeOf("UPSCALE"), 0, ne(4, 4, 2 ** 20 + 1, 1))
    expect(upscaled).toContain("each dimension must be at most 1048576")
  })

  test("has a type that the kernels know, and elements", () => {
    const typed = (op: string, index: number, sources: Record<number, string>, result?: string) =>
      check(changedNode(op, index, { sources, ...(result === undefined ? {} : { result }) }))
    expect(typed("NORM", 0, { 0: "F16 8,4,2,3" })).toContain("src[0] must be F32")
    expect(typed("SUM", 0, { 0: "I32 8,4,2" })).toContain("src[0] must be F32 or F16 or BF16")
    // Types without a product, which is a call of address 0.
    expect(typed("MUL_MAT", 1, { 0: "Q8_1 256,6" })).toContain("src[0] cannot be Q8_1")
    expect(typed("MUL_MAT", 0, { 0: "I32 16,6,2,1" })).toContain("src[0] cannot be I32")
    expect(typed("MUL_MAT_ID", 0, { 0: "I8 16,6,4" })).toContain("src[0] cannot be I8")
    expect(typed("SET_ROWS", 0, { 2: "I8 8,5,2" }, "I8 8,5,2")).toContain("the result cannot be I8")
    expect(typed("GET_ROWS", 0, { 0: "Q8_1 32,5,2" }, "F32 32,3,2")).toContain("cannot be Q8_1")
    expect(typed("SUM_ROWS", 0, { 0: "F32 0,4,2" })).toContain("src[0] must not be empty")
    expect(typed("CONCAT", 0, { 1: "F32 8,0,2" }, "F32 8,4,2")).toBe("")
  })
})

describe("results", () => {
  test("of which two elements share bytes are refused", () => {
    const norm = nodeOf("NORM") // 8,4,2,3
    const itself = "the result must not overlap itself"
    expect(refusal(norm, -1, { nb: [4, 28, 128, 256] })).toContain(itself)
    expect(refusal(norm, -1, { nb: [4, 0, 128, 256] })).toContain(itself)
    expect(refusal(norm, -1, { nb: [4, 32, 124, 256] })).toContain(itself)
    expect(refusal(norm, -1, { nb: [4, 32, 128, 252] })).toContain(itself)
    // Planes that lie between rows touch no element twice.
    expect(refusal(norm, -1, { nb: [4, 64, 32, 256] })).toBe("")
    expect(refusal(norm, -1, { nb: [4, 64, 36, 256] })).toContain(itself)
  })

  test("of copies may be views with other dimensions first, and are their second source", () => {
    const view = { nb: [16, 4, 128, 128] }
    const node = { op: "CPY", result: "F32 8,4", sources: ["F32 8,4", "F32 8,4"], over: 1 }
    const both = check(node, (tensors) => {
      setFields(tensors, 1, view)
      setFields(tensors, -1, view)
    })
    expect(both).toBe("")
    expect(refusal(node, -1, view)).toContain("the result must be src[1] or not overlap it")
  })

  test("lie over a source in its layout alone, and where kernels work in place", () => {
    const over = (op: string, source: number, offset: number, fields: Partial<RpcTensor> = {}) =>
      check(nodeOf(op), (tensors) => {
        const data = tensors[source]!.data + BigInt(offset)
        setFields(tensors, -1, { data, ...fields })
      })
    expect(over("SCALE", 0, 0)).toBe("")
    expect(over("ADD", 0, 0)).toBe("")
    expect(over("NORM", 0, 0, { nb: padded.rows })).toContain("must be src[0] or not overlap it")
    expect(over("SCALE", 0, 4)).toContain("the result must be src[0] or not overlap it")
    expect(over("ADD", 1, -4)).toContain("the result must be src[1] or not overlap it")
    expect(over("ADD", 1, 0)).toContain("the result must be src[1] or not overlap it")
    expect(over("MUL_MAT", 1, 0)).toContain("the result must not overlap src[1]")
    expect(over("GET_ROWS", 1, 0)).toContain("the result must not overlap src[1]")
    expect(over("ARGSORT", 0, 0)).toContain("the result must not overlap src[0]")
    const behind = dense[3]! * 3
    expect(over("SCALE", 0, behind)).toBe("")
  })
})

describe("copies", () => {
  const copied = (from: string, to: string, nb?: { from?: number[]; to?: number[] }): string =>
    check({ op: "CPY", result: to, sources: [from, "result"] }, (tensors) => {
      if (nb?.from !== undefined) setFields(tensors, 0, { nb: nb.from })
      if (nb?.to !== undefined) setFields(tensors, -1, { nb: nb.to })
    })

  test("convert what kernels convert", () => {
    for (const [from, to] of [
      ["F32", "BF16"],
      ["BF16", "F16"],
      ["F32", "I32"],
      ["I32", "F32"],
      ["I64", "I64"],
      ["F16", "Q8_0"],
      ["Q4_K", "F32"],
      ["Q4_K", "Q4_K"],
    ]) {
      expect(copied(`${from} 256,2`, `${to} 256,2`)).toBe("")
    }
    for (const [from, to] of [
      ["I32", "F16"],
      ["F16", "I32"],
      ["F64", "F32"],
      ["Q8_0", "F16"],
      ["Q8_0", "Q4_0"],
      ["Q8_1", "F32"],
      ["F32", "IQ2_XXS"],
      ["F32", "I64"],
    ]) {
      expect(copied(`${from} 256,2`, `${to} 256,2`)).toContain(
        `nothing converts ${from} into ${to}`,
      )
    }
  })

  test("follow any strides between types that are not quantized", () => {
    for (const nb of Object.values(padded)) {
      expect(copied("F32 8,4,2,3", "F32 24,8", { from: nb })).toBe("")
      expect(copied("F32 8,4,2,3", "F32 8,4,2,3", { to: nb })).toBe("")
      expect(copied("F32 192", "F32 8,4,2,3", { to: nb })).toBe("")
    }
  })

  test("quantize by rows of the source, which have room where one of the result has", () => {
    expect(copied("F32 32,4", "Q8_0 64,2")).toBe("")
    expect(copied("F32 64,2", "Q8_0 32,4")).toContain("must not have longer rows than")
    expect(copied("F32 16,8", "Q8_0 32,4")).toContain("whole blocks of the result's type")
    expect(copied("F32 32,4", "Q8_0 32,4", { from: [8, 256, 1024, 1024] })).toContain(
      "src[0] must have contiguous rows",
    )
    expect(copied("F32 32,4", "Q8_0 32,4", { to: [34, 68, 272, 272] })).toContain(
      "the result must be contiguous",
    )
  })

  test("of blocks go by rows, or all at once", () => {
    expect(copied("Q8_0 64,4", "Q8_0 32,8")).toBe("")
    const apart = [68, 136, 544, 544]
    expect(copied("Q8_0 64,4", "Q8_0 64,4", { from: apart })).toContain("contiguous rows")
    const pitched = [34, 136, 544, 544]
    expect(copied("Q8_0 64,4", "Q8_0 64,4", { from: pitched })).toBe("")
    expect(copied("Q8_0 64,4", "Q8_0 32,8", { from: pitched })).toContain("the shape of src[0]")
    expect(copied("Q8_0 64,4", "F32 64,4", { from: pitched })).toBe("")
    expect(copied("Q8_0 64,4", "F32 16,16", { to: [4, 128, 2048, 2048] })).toContain(
      "whole blocks of src[0]'s type",
    )
  })
})
