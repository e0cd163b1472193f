"use strict";
// Shows the document of the process that served this page.
SwaggerUIBundle({
  url: "../openapi.json",
  dom_id: "#documentation",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // Nothing is sent to anybody else.
  validatorUrl: null,
});
