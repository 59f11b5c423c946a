// Node-RED without its editor: the flows come from a file and nobody edits them while they run.
module.exports = {
    uiHost: "127.0.0.1",
    uiPort: @SPARE_PORT@,
    httpAdminRoot: false,
    flowFilePretty: true,
    telemetry: { enabled: false, updateNotification: false },
    logging: { console: { level: "warn", metrics: false, audit: false } },
    editorTheme: { tours: false },
};
