"""The `telemetry:` section of worker.yaml: where traces go."""

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from turbo.config.loader import Section


class Otlp(Section):
    endpoint: str | None = Field(
        default=None,
        description="Where the collector takes OTLP over HTTP: http://127.0.0.1:4318. null: as OTEL_EXPORTER_OTLP_ENDPOINT says.",
    )
    service_name: str = Field(default="turbo", min_length=1, max_length=255, description="`service.name` of the spans.")

    @field_validator("endpoint")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        _ = parts.port
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is not the address of a collector: write http:// or https:// and a host")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(
                "holds a login or a query: put a token into OTEL_EXPORTER_OTLP_HEADERS of the worker's environment"
            )
        return url.rstrip("/")


class TelemetrySection(Section):
    otlp: Otlp | None = Field(
        default=None, description="Export a trace of each task. null: none; nothing is loaded then."
    )
