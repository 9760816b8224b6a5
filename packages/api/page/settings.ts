/** The panel of settings. */
import { loadSettings, saveSettings } from "./conversation.ts"
import { byId } from "./dom.ts"

const dialog = byId<HTMLDialogElement>("settings")
const system = byId<HTMLTextAreaElement>("system")
const temperature = byId<HTMLInputElement>("temperature")

export const initSettings = (): void => {
  byId("open-settings").addEventListener("click", () => {
    const shown = loadSettings()
    system.value = shown.system
    temperature.value = shown.temperature
    dialog.showModal()
  })
  // Escape keeps them, too: there is nothing to undo.
  dialog.addEventListener("close", () => {
    saveSettings({ system: system.value.trim(), temperature: temperature.value })
  })
}
