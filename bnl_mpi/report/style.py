"""The pages' style sheet and the few lines of script of the slider."""

from __future__ import annotations

CSS = """
:root{--bg:#fbfaf7;--card:#fff;--ink:#1c2230;--soft:#5c6675;--line:#dcdfe5;--s1:#1667b7;--s2:#d1495b;--s3:#2a9d6f;
--s4:#8a93a3;--good:#1d7f4f;--care:#a96a00;--bad:#b3261e;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--bg:#12151c;--card:#1b2029;--ink:#e9ecf2;--soft:#a3adbb;--line:#343b48;
--s1:#6cb4ff;--s2:#ff8795;--s3:#5fd3a2;--s4:#8a93a3;--good:#5fd39a;--care:#f0b84b;--bad:#ff8a80}}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:clamp(1.25rem,3.2vw,1.9rem);margin:.1em 0 .2em;overflow-wrap:anywhere;line-height:1.2}
h2{font-size:1.15rem;margin:2.2em 0 .6em}p{margin:.4em 0 .8em;max-width:74ch;overflow-wrap:anywhere}
.soft,figcaption{color:var(--soft);font-size:.9rem}
.verdict{border-left:6px solid var(--tone);background:var(--card);padding:14px 18px;margin:18px 0;border-radius:4px}
.verdict strong{font-size:1.5rem;color:var(--tone);display:block;line-height:1.25}
.kept{--tone:var(--good)}.care{--tone:var(--care)}.lost{--tone:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;padding:0;margin:0;list-style:none}
.tiles li{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:10px 14px}
.tiles b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
.pictures{display:grid;grid-template-columns:minmax(0,1.55fr) minmax(0,1fr);gap:16px;align-items:start}
.pictures>div{display:grid;gap:16px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:6px;padding:12px;min-width:0}
figcaption{margin-top:6px}svg.chart{width:100%;height:auto;display:block;color:var(--ink)}
.plot{fill:none;stroke:var(--line)}path.grid{stroke:var(--line);stroke-width:1;fill:none;}
svg text{font-family:inherit;fill:var(--ink)}.tick{font-size:13px;fill:var(--soft)!important}.label{font-size:14px}
.mid{text-anchor:middle}.end{text-anchor:end}.line{fill:none;stroke-width:2.2;stroke-linejoin:round}
.points{fill:none;stroke-width:3.4;stroke-linecap:round;stroke-opacity:.55}.points.key{stroke-width:8;stroke-opacity:1}
.dots{fill:none;stroke-width:7;stroke-linecap:round}.mark{fill:none;stroke:var(--soft);stroke-dasharray:4 4}
.s1{stroke:var(--s1)}.s2{stroke:var(--s2)}.s3{stroke:var(--s3)}.s4{stroke:var(--s4)}.s4.line{stroke-width:4.5}
.frame{position:relative;line-height:0;overflow:hidden;border-radius:3px;
touch-action:pan-y}.frame img{width:100%;height:auto;display:block}
.frame .over{position:absolute;inset:0;clip-path:inset(0 0 0 var(--cut,50%))}
.frame .bar{position:absolute;top:0;bottom:0;left:var(--cut,50%);width:2px;margin-left:-1px;background:#fff;
box-shadow:0 0 3px #000}
.frame .tag{position:absolute;top:8px;padding:2px 8px;border-radius:3px;background:#000a;color:#fff;
font:13px/1.5 system-ui,sans-serif}.tag.left{left:8px}.tag.right{right:8px}
.whole{width:100%;height:auto;display:block;border-radius:3px}
.rings{position:absolute;inset:0;width:100%;height:100%}.rings path{fill:none;stroke:#fff;stroke-opacity:.5;
stroke-width:1.2;vector-effect:non-scaling-stroke}.rings text{fill:#fff!important;paint-order:stroke;stroke:#0008;
stroke-width:3px}
input[type=range]{width:100%;margin:10px 0 0;accent-color:var(--s1);height:28px}
.scale{display:flex;margin-top:6px;align-items:center;gap:8px;font-size:.85rem;color:var(--soft);flex-wrap:wrap}
.scale i{display:inline-block;width:150px;max-width:40vw;height:12px;border-radius:2px}
.scale .masked{width:14px;background:rgb(96,108,122)}
.side{display:grid;grid-template-columns:1fr 1fr;gap:8px}
.zooms{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:16px}
.zooms .pair{display:grid;grid-template-columns:1fr 1fr;gap:6px}
.zoom{width:100%;height:auto;display:block;border-radius:3px}
.zoom .pixels{image-rendering:pixelated}.zoom text{text-anchor:middle;font-variant-numeric:tabular-nums}
.zoom .l{fill:#fff!important}.zoom .d{fill:#20102a!important}
.wide{overflow-x:auto;max-width:100%}table{border-collapse:collapse;font-size:.86rem;background:var(--card)}
th,td{padding:5px 8px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}th:first-child,td:first-child,td.text,th.text{text-align:left}
tr.chosen td{background:color-mix(in srgb,var(--s1) 14%,transparent);font-weight:600}
code,pre{font:.88rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:10px 14px;white-space:pre-wrap;
overflow-wrap:anywhere}dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;font-size:.92rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;min-width:0}
@media (max-width:820px){.pictures{grid-template-columns:minmax(0,1fr)}.tiles{grid-template-columns:1fr 1fr}}
@media (max-width:560px){main{padding:16px 12px 40px}dl{grid-template-columns:1fr}dd{margin-bottom:6px}}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--s1:#1667b7;--s2:#d1495b;--s3:#2a9d6f;
--good:#1d7f4f;--care:#a96a00;--bad:#b3261e;color-scheme:light}input[type=range]{display:none}
figure,.verdict,.tiles li,tr{break-inside:avoid}main{max-width:none;padding:0}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
""".strip()

SCRIPT = """
for(const s of document.querySelectorAll("input[type=range]")){const f=document.getElementById(s.dataset.frame);
const move=()=>f.style.setProperty("--cut",s.value+"%");s.addEventListener("input",move);move();
const drag=e=>{if(e.buttons&1){const r=f.getBoundingClientRect();
s.value=Math.max(0,Math.min(100,(e.clientX-r.left)/r.width*100));move()}};
f.addEventListener("pointerdown",drag);f.addEventListener("pointermove",drag)}
""".strip()
