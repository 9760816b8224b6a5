/** The page: a chat with the model, and the cluster that it lies on. */
import { Chat } from "./chat.ts"
import { initCluster } from "./clusterPanel.ts"
import { Composer } from "./composer.ts"
import { byId } from "./dom.ts"
import { initSettings } from "./settings.ts"

const composer = new Composer(() => chat)
const chat = new Chat({
  onRunning: (isRunning) => composer.setRunning(isRunning),
  onEdit: (text) => composer.edit(text),
})

byId("clear").addEventListener("click", () => {
  chat.clear()
  composer.reset()
})
initSettings()
initCluster()
if (matchMedia("(pointer: fine)").matches) composer.reset()
