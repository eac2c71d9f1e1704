/* Copy buttons on samples; and search from file:// without errors. */
(function () {
  "use strict";

  var SHOWN = 2000; // milliseconds for which a button says what it has done

  /* What to paste: no prompts, and nothing that is printed. */
  function source(block) {
    var copy = block.cloneNode(true);
    /* Where there are prompts, what has none is output. */
    var prompts = copy.querySelectorAll(".gp");
    prompts.forEach(function (prompt) {
      prompt.textContent = "\u0001";
    });
    var lines = copy.textContent.replace(/\n+$/, "").split("\n");
    if (prompts.length) {
      lines = lines.filter(function (line) {
        return line.charAt(0) === "\u0001";
      });
    }
    return lines
      .filter(function (line) {
        return !/^\s*#>/.test(line);
      })
      .map(function (line) {
        return line.replace(/^\u0001 ?/, "");
      })
      .join("\n") + "\n";
  }

  /* For pages over plain http, where browsers have no navigator.clipboard. */
  function copyBySelection(text) {
    return new Promise(function (resolve, reject) {
      var area = document.createElement("textarea");
      area.value = text;
      area.setAttribute("readonly", "");
      area.className = "copy-area";
      document.body.appendChild(area);
      area.select();
      var done = document.execCommand("copy");
      area.remove();
      if (done) {
        resolve();
      } else {
        reject(new Error("copying was refused"));
      }
    });
  }

  function copyText(text) {
    if (navigator.clipboard && window.isSecureContext) {
      return navigator.clipboard.writeText(text).catch(function () {
        return copyBySelection(text);
      });
    }
    return copyBySelection(text);
  }

  function addButton(block) {
    var button = document.createElement("button");
    button.type = "button";
    button.className = "copy-button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy this sample");
    var said = document.createElement("span");
    said.className = "copy-said";
    said.setAttribute("role", "status");
    var timer;

    function say(text) {
      button.textContent = text;
      said.textContent = text;
      clearTimeout(timer);
      timer = setTimeout(function () {
        button.textContent = "Copy";
        said.textContent = "";
      }, SHOWN);
    }

    button.addEventListener("click", function () {
      copyText(source(block)).then(
        function () {
          button.focus();
          say("Copied");
        },
        function () {
          say("Not copied");
        }
      );
    });
    block.parentNode.appendChild(button);
    block.parentNode.appendChild(said);
  }

  document.querySelectorAll("div.highlight > pre").forEach(addButton);

  /* A summary of each result would be read from its page, which browsers do
     not allow where pages are files. Results without it are found all the
     same. */
  if (
    location.protocol === "file:" &&
    typeof DOCUMENTATION_OPTIONS !== "undefined"
  ) {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  }
})();
