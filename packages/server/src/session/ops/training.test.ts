import { expect, test } from "bun:test"
import { type Change, changedNode, checkNode } from "../../../test/nodeCheck.ts"

const refused: ReadonlyArray<readonly [op: string, change: Change, refusal: string]> = [
  ["CROSS_ENTROPY_LOSS", { sources: { 0: "F16 8,4" } }, "src[0] must be F32"],
  [
    "CROSS_ENTROPY_LOSS",
    { sources: { 0: "F32 8,1,4 4,36,32,128", 1: "F32 8,1,4" } },
    "src[0] must be contiguous",
  ],
  ["CROSS_ENTROPY_LOSS_BACK", { sources: { 0: "F16 1" } }, "src[0] must be F32"],
  ["OPT_STEP_ADAMW", { sources: { 1: "F16 8,4" } }, "src[1] must be F32"],
  // The gradient is read by the strides of the weights.
  ["OPT_STEP_ADAMW", { sources: { 1: "F32 8,4 4,36,144,144" } }, "src[1] must be contiguous"],
  ["OPT_STEP_SGD", { sources: { 2: "F32 2 8,16,16,16" } }, "src[2] must be contiguous"],
  ["OPT_STEP_SGD", { over: 1 }, "the result must not overlap src[1]"],
]

test.each(refused)("%s %j: %s", (op, change, refusal) => {
  expect(checkNode(changedNode(op, 0, change))).toContain(refusal)
})

test("what optimizers change besides the weights is nothing else", () => {
  const said = checkNode(changedNode("OPT_STEP_ADAMW", 0, {}), {
    change: (tensors) => {
      tensors[2] = { ...tensors[2]!, data: tensors[1]!.data }
    },
  })
  expect(said).toContain("src[2] must not overlap src[1]")
})

test("optimizers change the weights, which are the result", () => {
  const said = checkNode(changedNode("OPT_STEP_SGD", 0, {}), {
    change: (tensors) => {
      const result = tensors.at(-1)!
      tensors[tensors.length - 1] = { ...result, viewSrc: 0n, data: result.data + 4096n }
    },
  })
  expect(said).toContain("the result must be src[0]")
})
