import { expect, test } from "bun:test"
import { Effect } from "effect"
import { TaggedError } from "./taggedError.ts"

class LostError extends TaggedError("LostError")<{ readonly place: string }> {
  override get message() {
    return `Lost at ${this.place}.`
  }
}

class FullError extends TaggedError("FullError")<{ readonly message: string }> {}

test("a tagged error is an error with its fields, and a message of its own or from them", () => {
  const lost = new LostError({ place: "sea" })
  expect(lost).toBeInstanceOf(Error)
  expect(lost).toBeInstanceOf(LostError)
  expect(lost).not.toBeInstanceOf(FullError)
  expect(`${lost}`).toBe("LostError: Lost at sea.")
  expect(lost).toMatchObject({ _tag: "LostError", place: "sea" })
  expect(new FullError({ message: "No room." }).message).toBe("No room.")
})

test("Effect catches it by its tag", () => {
  const caught = Effect.runSync(
    Effect.fail(new LostError({ place: "sea" })).pipe(
      Effect.catchTag("LostError", ({ place }) => Effect.succeed(place)),
    ),
  )
  expect(caught).toBe("sea")
})
