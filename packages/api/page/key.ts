/** The server's key, which is asked for when the server asks. */
import { byId } from "./dom.ts"
import { RequestError, setKey } from "./server.ts"

const dialog = byId<HTMLDialogElement>("key-dialog")
const input = byId<HTMLInputElement>("key")
const note = byId("key-note")

let asked: Promise<boolean> | undefined

/** Whether there is a key now that there was not. */
const askForKey = (reason: string): Promise<boolean> => {
  asked ??= new Promise((resolve) => {
    note.textContent = reason
    input.value = ""
    dialog.returnValue = ""
    dialog.showModal()
    dialog.addEventListener(
      "close",
      () => {
        asked = undefined
        // Escape leaves without one.
        const isGiven = dialog.returnValue === "given"
        if (isGiven) setKey(input.value)
        resolve(isGiven)
      },
      { once: true },
    )
  })
  return asked
}

dialog.querySelector("form")!.addEventListener("submit", (event) => {
  event.preventDefault()
  dialog.close("given")
})

const KEPT = "It is kept until this tab is closed."

/** Does what may need a key, again with one where the server asks for it. */
export const withKey = async <T>(work: () => Promise<T>): Promise<T> => {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof RequestError && error.status === 401)) throw error
      const reason =
        attempt === 0
          ? `This server asks for a key. ${KEPT}`
          : `This is not a key of this server's. ${KEPT}`
      if (!(await askForKey(reason))) throw error
    }
  }
}
