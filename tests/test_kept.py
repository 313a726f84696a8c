"""``communication="kept"``: what processes exchange, and that nothing else than that becomes of it."""

from pathlib import Path

SCRIPT = Path(__file__).parent / "scripts" / "kept.py"
