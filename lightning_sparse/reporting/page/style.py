"""The style of the page: light and dark, narrow and wide, in one sheet."""

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--back:#fff;--card:#f7f8fa;--ink:#1a1d21;--soft:#545b66;--rule:#d8dce2;
--c0:#0067a8;--c1:#c44f00;--c2:#00805d;--c3:#a8497e;--c4:#8a6a00;--c5:#5b4fc4;--c6:#5a6068;
--measured:#00664b;--theory:#8a4b00}
@media (prefers-color-scheme:dark){:root{--back:#14171b;--card:#1c2026;--ink:#e8eaed;--soft:#a9b1bc;
--rule:#363c45;--c0:#5cb3ec;--c1:#ff9248;--c2:#3fcf9f;--c3:#ec9cc8;--c4:#e2c044;--c5:#aba2ff;--c6:#b4bbc4;
--measured:#58d3a9;--theory:#f0b060}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:1400px;margin:0 auto;padding:20px clamp(12px,3vw,40px) 60px}
h1{font-size:26px;line-height:1.2;margin:8px 0 4px;overflow-wrap:anywhere}
h2{font-size:20px;margin:40px 0 4px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:15px;margin:0 0 6px;overflow-wrap:anywhere}
p{margin:6px 0 12px;max-width:75ch}
.soft,figcaption{color:var(--soft)}
.grid-of{display:grid;gap:16px;align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
.grid-of.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,280px),1fr))}
figure{margin:0;padding:14px;background:var(--card);border:1px solid var(--rule);border-radius:8px;
min-width:0;max-width:680px}
figure svg{display:block;width:100%;height:auto;max-width:520px;margin:0 auto}
.small figure svg{max-width:400px}
figcaption{font-size:13.5px;margin-top:8px}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;margin:6px 0 0;padding:0;font-size:13px}
.legend li{display:flex;align-items:center;gap:6px;overflow-wrap:anywhere;min-width:0}
.legend .sample{width:28px;height:10px;flex:none;margin:0}
.sw{display:inline-block;width:14px;height:10px;border-radius:2px;flex:none}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;margin:8px 0}
td:last-child:not(.n){min-width:26ch}
th,td{padding:5px 12px 5px 0;border-bottom:1px solid var(--rule);text-align:left;vertical-align:top}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
dl{display:grid;grid-template-columns:minmax(90px,max-content) 1fr;gap:4px 16px;margin:12px 0;font-size:14px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;min-width:0}
.tag{font-size:12px;font-weight:600;white-space:nowrap}
.tag.measured{color:var(--measured)}
.tag.theory{color:var(--theory)}
.headline{display:flex;flex-wrap:wrap;gap:10px 34px;margin:14px 0 4px}
.headline div{min-width:110px}
.headline b{display:block;font-size:24px;line-height:1.2}
svg text{font-family:inherit;font-size:12px;fill:var(--soft)}
svg text.label,svg text.name{fill:var(--ink)}
.grid{stroke:var(--rule);stroke-width:1}
.axis{stroke:var(--soft);stroke-width:1}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round}
.line.strong{stroke-width:2.6}
.line.many{stroke-width:1.2;opacity:.85}
.line.together{stroke:var(--ink)}
.dot.together{fill:var(--ink)}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}
.line.c4{stroke:var(--c4)}.line.c5{stroke:var(--c5)}.line.c6{stroke:var(--c6)}
.dot.c0{fill:var(--c0)}.dot.c1{fill:var(--c1)}.dot.c2{fill:var(--c2)}.dot.c3{fill:var(--c3)}
.dot.c4{fill:var(--c4)}.dot.c5{fill:var(--c5)}.dot.c6{fill:var(--c6)}
.bar{fill:var(--c0)}
.bar.b1{fill:var(--c1)}
.sw.b0{background:var(--c0)}.sw.b1{background:var(--c1)}
.mark{stroke:var(--c1);stroke-width:2;stroke-dasharray:5 3}
.mask{display:block;width:100%;height:auto;image-rendering:pixelated;border:1px solid var(--rule);
background:var(--back)}
"""
