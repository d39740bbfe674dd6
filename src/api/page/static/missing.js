// In the place of a picture whose file does not come: it is past its age, or its address is.

import { h } from "./dom.js";

export const missing = () => h("span", { className: "missing" }, "No file here");
