// What the pages do beyond htmx: pause polls nobody sees or that would take a selection away, and say when the
// console does not answer. Without this file, or without scripts at all, the pages work by reloading.
"use strict";

(() => {
  const contact = document.getElementById("contact");
  let lastAnswer = new Date();

  const isPoll = (element) => element.classList.contains("live");

  const selecting = (element) => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.anchorNode !== null && element.contains(selection.anchorNode);
  };

  document.addEventListener("htmx:beforeRequest", (event) => {
    const element = event.detail.elt;
    if (isPoll(element) && (document.hidden || selecting(element))) {
      event.preventDefault();
    }
  });

  // An error answer is never put into the page: what is shown stays, marked as old.
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.xhr === undefined) {
      return;
    }
    const status = event.detail.xhr.status;
    if (event.detail.successful) {
      lastAnswer = new Date();
      contact.hidden = true;
    } else if (isPoll(event.detail.elt)) {
      const why = status === 0 ? "The console does not answer." : `The console answered with an error (${status}).`;
      const text = `${why} What you see is from ${lastAnswer.toLocaleTimeString()}; it is tried again every second.`;
      if (contact.textContent !== text) {
        contact.textContent = text; // set only when it changes: screen readers read it once
      }
      contact.hidden = false;
    }
    document.body.classList.toggle("lost", !contact.hidden);
  });
})();
