export { demoModel, writeDemoModel } from "./model.ts"
export { recitalText, recitalTokens } from "./recital.ts"
