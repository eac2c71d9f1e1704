/* A field that narrows the endpoint table down while one types. */
(function () {
  "use strict";

  function prepare(tables) {
    var rows = [];
    tables.forEach(function (table) {
      table.querySelectorAll("tbody tr").forEach(function (row) {
        row.querySelectorAll("td").forEach(function (cell) {
          if (!cell.textContent.trim()) {
            cell.classList.add("is-empty");
          }
        });
        rows.push({
          element: row,
          text: row.textContent.replace(/\s+/g, " ").toLowerCase(),
        });
      });
    });
    return rows;
  }

  function narrow(rows, tables, wanted) {
    var words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach(function (row) {
      row.element.hidden = !words.every(function (word) {
        return row.text.indexOf(word) !== -1;
      });
    });
    tables.forEach(function (table) {
      var section = table.closest("section");
      section.hidden = !table.querySelector("tbody tr:not([hidden])");
    });
  }

  var tables = Array.from(document.querySelectorAll("table.endpoints"));
  if (!tables.length) {
    return;
  }
  var rows = prepare(tables);
  var field = document.createElement("input");
  field.type = "search";
  field.className = "endpoint-filter";
  field.placeholder = "Narrow down: put incidents";
  field.setAttribute("aria-label", "Narrow the endpoints down");
  field.addEventListener("input", function () {
    narrow(rows, tables, field.value);
  });
  var first = tables[0].closest("section");
  first.parentNode.insertBefore(field, first);
})();
