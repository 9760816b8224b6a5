import { expect, test } from "bun:test"
import { closest, closestFlag, editDistance } from "./closest.ts"

test("editDistance counts slips, a swap as one", () => {
  expect(editDistance("", "abc")).toBe(3)
  expect(editDistance("kitten", "sitting")).toBe(3)
  expect(editDistance("split", "spilt")).toBe(1)
  expect(editDistance("ca", "abc")).toBe(3)
})

test("closest suggests what is near, nothing far-fetched", () => {
  const known = ["--rpc", "--prompt", "--predict", "-p"]
  expect(closest("--promt", known)).toBe("--prompt")
  expect(closest("--pred", known)).toBe("--predict")
  expect(closest("--verbose", known)).toBeUndefined()
  expect(closest("-", known)).toBeUndefined()
})

test("a short flag is not taken for another one, but for its letters in another order", () => {
  const known = ["-t", "-to", "-ngl", "--threads", "--top-k"]
  expect(closestFlag("-ot", ["-t", "--threads"])).toBeUndefined()
  expect(closestFlag("-ts", known)).toBeUndefined()
  expect(closestFlag("-nlg", known)).toBe("-ngl")
  expect(closestFlag("-T", known)).toBeUndefined()
  expect(closestFlag("--treads", known)).toBe("--threads")
})
