from pathlib import Path

import pytest

from icestream.runtime.grpc_certificates import CertificateFiles
from icestream.runtime.grpc_settings import GrpcServiceSettings
from services.recorder.settings import RecorderSettings
from services.router.settings import RouterSettings
from services.scanner.coordinator.settings import ScannerSettings

SERVICES: list[tuple[type[GrpcServiceSettings], int]] = [
    (RouterSettings, 50051),
    (ScannerSettings, 50052),
    (RecorderSettings, 50053),
]


@pytest.mark.parametrize(("kind", "port"), SERVICES)
def test_each_service_has_a_port_of_its_own_and_asks_nobody_by_default(
    kind: type[GrpcServiceSettings], port: int
) -> None:
    settings = kind.load([])
    assert (settings.grpc_host, settings.grpc_port) == ("127.0.0.1", port)
    assert settings.grpc_certificate is None
    assert settings.grpc_tokens is None


@pytest.mark.parametrize("kind", [kind for kind, _ in SERVICES])
def test_each_service_takes_a_certificate_and_tokens(kind: type[GrpcServiceSettings]) -> None:
    settings = kind.load(
        ["--grpc-tls-certificate", "tls.crt", "--grpc-tls-key", "tls.key", "--grpc-tokens", "tokens"]
    )
    assert settings.grpc_certificate == CertificateFiles(Path("tls.crt"), Path("tls.key"))
    assert settings.grpc_tokens == Path("tokens")


@pytest.mark.parametrize("flag", ["--grpc-tls-certificate", "--grpc-tls-key"])
def test_a_certificate_without_its_key_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        RouterSettings.load([flag, "file.pem"])
    assert refused.value.code == 2
    assert "--grpc-tls-certificate and --grpc-tls-key go together" in capsys.readouterr().err
