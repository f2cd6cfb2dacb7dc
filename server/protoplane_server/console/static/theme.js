// Runs before the page is drawn, so that it never flashes in the other colours.
"use strict";
try {
  const theme = localStorage.getItem("protoplane.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* No storage: the system's choice stands. */ }
