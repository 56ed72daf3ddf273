"""Progress where nobody watches."""

from denoisezoo import progress, ranks


def test_a_log_has_a_line_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress_bar("sampling", 300) as tell:
        for done, now[0] in ((10, 59.0), (20, 61.0), (30, 100.0), (40, 122.0)):
            tell(done)
    assert capsys.readouterr().err == "sampling: 20 of 300\nsampling: 40 of 300\n"
    monkeypatch.setattr(ranks, "ranks", lambda: (1, 2))
    with progress.progress_bar("sampling", 300) as tell:
        now[0] += 100.0
        tell(10)
    assert capsys.readouterr().err == ""
