import { describe, expect, test } from "bun:test"
import {
  findVersion,
  gluOpName,
  libraryNumbering,
  opId,
  opName,
  typeId,
  typeName,
  types,
  unaryOpName,
} from "./index.ts"

describe("the numbers of the ggml that is loaded", () => {
  test("counts", () => {
    expect(libraryNumbering.ops.length).toBe(101)
    expect(libraryNumbering.unaryOps.length).toBe(22)
    expect(libraryNumbering.gluOps.length).toBe(7)
    expect(libraryNumbering.types.length).toBe(35)
  })

  test("ids where versions differ", () => {
    // The inserted ones, and the last of each list.
    expect(opId("CUMSUM")).toBe(16)
    expect(opId("VIEW")).toBe(37)
    expect(opId("COL2IM_1D")).toBe(55)
    expect(opId("LIGHTNING_INDEXER")).toBe(87)
    expect(opId("DSV4_HC_POST")).toBe(90)
    expect(opName(100)).toBe("GLU")
    expect(opName(101)).toBeUndefined()
    expect(unaryOpName(14)).toBe("EXPM1")
    expect(unaryOpName(21)).toBe("TRUNC")
    expect(gluOpName(6)).toBe("SWIGLU_CLAMP")
    expect(gluOpName(7)).toBeUndefined()
  })

  test("types", () => {
    expect(typeName(12)).toBe("Q4_K")
    expect(typeId("Q2_0")).toBe(42)
    expect(typeName(4)).toBeUndefined()
    expect(typeId("Q4_2")).toBe(-1)
    expect(opId("NOT_AN_OP")).toBe(-1)
  })

  test("names are unique, and ops of callbacks exist", () => {
    const { ops, unaryOps, gluOps } = libraryNumbering
    for (const names of [ops, unaryOps, gluOps, types.map(({ name }) => name)]) {
      expect(new Set(names).size).toBe(names.length)
    }
  })
})

test("another numbering's names and ids", () => {
  const [oldest] = findVersion("2.0.0")!.numberings
  expect(opName(86, oldest)).toBe("GLU")
  expect(opId("CUMSUM", oldest)).toBe(-1)
  expect(unaryOpName(14, oldest)).toBe("GELU_ERF")
  expect(unaryOpName(15, oldest)).toBeUndefined()
  expect(gluOpName(5, oldest)).toBe("GEGLU_QUICK")
})
