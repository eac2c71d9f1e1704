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

  function narrow(rows, tables, wanted, none) {
    var words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach(function (row) {
      row.element.hidden = !words.every(function (word) {
        return row.text.indexOf(word) !== -1;
      });
    });
    var found = 0;
    tables.forEach(function (table) {
      var section = table.closest("section");
      var left = table.querySelectorAll("tbody tr:not([hidden])").length;
      section.hidden = !left;
      found += left;
    });
    none.textContent = found ? "" : "Nothing found. An endpoint that is not " +
      "in the table can be used all the same, by its path.";
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
  var none = document.createElement("p");
  none.className = "endpoint-none";
  none.setAttribute("role", "status");
  field.addEventListener("input", function () {
    narrow(rows, tables, field.value, none);
  });
  var first = tables[0].closest("section");
  first.parentNode.insertBefore(field, first);
  first.parentNode.insertBefore(none, first);
})();
