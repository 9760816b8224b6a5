/** `GET /slots`, and what can be done with one. */
import { basename, join } from "node:path"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ApiError, invalidRequest, notSupported } from "../ApiError.ts"
import { JsonObject, optional } from "../fields.ts"
import { askModel } from "../generate.ts"
import { Serving } from "../Serving.ts"

const Slot = Schema.Struct({
  id: Schema.Int,
  n_ctx: Schema.Int,
  is_processing: Schema.Boolean,
  state: Schema.Literal("idle", "prompt", "generating"),
  n_tokens: Schema.Int,
}).annotations({ identifier: "LlamaSlot" })

export const slotsEndpoint = HttpApiEndpoint.get("slots", "/slots")
  .setUrlParams(Schema.Struct({ fail_on_no_slot: Schema.optional(Schema.String) }))
  .addSuccess(Schema.Array(Slot))

const Action = Schema.Literal("save", "restore", "erase")

export const slotActionEndpoint = HttpApiEndpoint.post("slotAction", "/slots/:id")
  .setPath(Schema.Struct({ id: Schema.NumberFromString.pipe(Schema.int()) }))
  .setUrlParams(Schema.Struct({ action: Action }))
  .setPayload(Schema.Struct({ filename: optional(Schema.String) }))
  .addSuccess(JsonObject)

export const handleSlots = ({
  urlParams,
}: {
  readonly urlParams: { readonly fail_on_no_slot?: string | undefined }
}) =>
  Effect.gen(function* () {
    const serving = yield* Serving
    const { model } = yield* serving.model
    if (!serving.options.hasSlots) {
      return yield* notSupported(
        "This server does not show its slots: start it without --no-slots.",
      )
    }
    const { slots } = yield* askModel((own) => own.slots)
    if (urlParams.fail_on_no_slot !== undefined && slots.every(({ state }) => state !== "idle")) {
      return yield* new ApiError({ kind: "unavailable", message: "No slot is free." })
    }
    return slots.map(({ slot, state, tokenCount }) => ({
      id: slot,
      n_ctx: model.contextSize,
      is_processing: state !== "idle",
      state,
      n_tokens: tokenCount,
    }))
  })

interface ActionRequest {
  readonly path: { readonly id: number }
  readonly urlParams: { readonly action: typeof Action.Type }
  readonly payload: { readonly filename?: string }
}

/** A name without a folder, so that no request reaches another file. */
const filePath = (folder: string, filename: string | undefined): Effect.Effect<string, ApiError> =>
  filename === undefined || filename !== basename(filename) || /^\.*$|[\0\\]/.test(filename)
    ? Effect.fail(
        invalidRequest("'filename' must be the name of a file, without a folder.", "filename"),
      )
    : Effect.succeed(join(folder, filename))

const perform = (
  folder: string,
  { path: { id }, urlParams: { action }, payload: { filename } }: ActionRequest,
): Effect.Effect<typeof JsonObject.Type, ApiError, Serving> =>
  Effect.gen(function* () {
    if (action === "erase") {
      const count = yield* askModel((model) => model.eraseSlot(id))
      return { id_slot: id, n_erased: count }
    }
    const file = yield* filePath(folder, filename)
    const startedAt = performance.now()
    const count = yield* askModel((model) =>
      action === "save" ? model.saveSlot(id, file) : model.restoreSlot(id, file),
    )
    const sizeBytes = Bun.file(file).size
    const ms = performance.now() - startedAt
    const counts =
      action === "save"
        ? { n_saved: count, n_written: sizeBytes, timings: { save_ms: ms } }
        : { n_restored: count, n_read: sizeBytes, timings: { restore_ms: ms } }
    return { id_slot: id, filename, ...counts }
  })

export const handleSlotAction = (request: ActionRequest) =>
  Effect.gen(function* () {
    const { slotSavePath } = (yield* Serving).options
    if (slotSavePath === undefined) {
      return yield* notSupported(
        "This server keeps no slots: start it with --slot-save-path FOLDER.",
      )
    }
    return yield* perform(slotSavePath, request)
  })
