import { expect, test } from "bun:test"
import { modelFiles, readPartName, writePartName } from "./partNames.ts"

test("a part's name says which it is, and of how many", () => {
  const name = { prefix: "/models/a-00001-of-00002", index: 1, count: 12 }
  const path = "/models/a-00001-of-00002-00002-of-00012.gguf"
  expect(writePartName(name)).toBe(path)
  expect(readPartName(path)).toEqual(name)
  expect(readPartName("A-00001-OF-00002.GGUF")).toEqual({ prefix: "A", index: 0, count: 2 })
})

test.each(["a.gguf", "a-1-of-2.gguf", "-00001-of-00002.gguf", "a-00001-of-00002.gguf.part", ""])(
  "%j says nothing of parts",
  (path) => {
    expect(readPartName(path)).toBeUndefined()
    expect(modelFiles(path)).toEqual([path])
  },
)

test("the files of a model are all parts where its name is that of the first one", () => {
  const parts = ["d/a-00001-of-00002.gguf", "d/a-00002-of-00002.gguf"] as const
  expect(modelFiles(parts[0])).toEqual([...parts])
  for (const path of [parts[1], "a-00001-OF-00002.gguf", "a-00000-of-00002.gguf"]) {
    expect(modelFiles(path)).toEqual([path])
  }
})
