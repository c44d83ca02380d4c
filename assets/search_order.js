// The order of search results: chapters first, then other pages, the interface of the package last.
var Scorer = {
  score: ([page, , , , score]) => score + (page.startsWith("chapters/") ? 40 : page.startsWith("api/") ? -40 : 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
